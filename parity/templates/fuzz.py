"""Renders random small expressions with Jinja2 under transformers and with ours, and shows where they differ. By hand.

    python parity/templates/fuzz.py target/debug/examples/render_template SEED COUNT

Jinja2's filter `indent` changes a list that it is given, so variables are copied for each rendering.
"""
import copy

from transformers.utils import chat_template_utils


def render(template, variables):
    try:
        return chat_template_utils._compile_jinja_template(template).render(**copy.deepcopy(variables))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


import sys, json, subprocess, random
seed=int(sys.argv[2]); N=int(sys.argv[3])
R=random.Random(seed)
V={"s":"Hello World","e":"","u":"Straße Äö ß ǆx","ml":"a\nb\r\nc\n\n d\te","i":7,"z":0,"n":-3,"f":2.5,"g":1e-7,"h":1e16,"t":True,"fl":False,"no":None,"l":[3,1,2],"ls":["b","A","c","a"],"le":[],"m":[1,"a",None,2.0,True],"d":{"b":1,"a":2,"items":3},"de":{},"dn":{"x":{"y":[1,{"z":"q"}]},"k":"v"},"lo":[{"n":"b","v":2},{"n":"A","v":1},{"n":"a","v":1},{"v":None}],"nest":[[1,2],[3,[4]]],"html":"<a href='x'>&\"</a>","num":"42","fs":" 3.14 ","pc":"%s and %d","fm":"{} {0} {a}"}
names=list(V)+["undef","und2"]
strm=["upper()","lower()","title()","capitalize()","swapcase()","casefold()","strip()","lstrip('H ')","rstrip('d')","split()","split('o')","split('o',1)","split(maxsplit=1)","split(None,1)","rsplit('o',1)","rsplit(None,1)","rsplit(maxsplit=1)","splitlines()","splitlines(true)","splitlines(keepends=true)","partition('o')","rpartition('o')","partition(' ')","removeprefix('He')","removesuffix('ld')","zfill(15)","zfill(2)","ljust(15)","ljust(15,'*')","rjust(14,'é')","center(16,'-')","center(15)","find('o')","find('o',5)","find('o',-3,-1)","rfind('o')","index('o')","rindex('o')","index('q')","count('o')","count('')","count('l',3)","startswith('He')","startswith(('x','He'))","endswith('d')","endswith(('d',1))","startswith('l',2)","replace('o','0')","replace('o','0',1)","replace('','-')","replace('','-',2)","isalpha()","isdigit()","isalnum()","isspace()","isupper()","islower()","istitle()","isnumeric()","isdecimal()","isascii()","isidentifier()","isprintable()","expandtabs()","expandtabs(4)","format(1,2,a=3)","join(ls)","join(m)","join(l)","encode","foo","foo()","append(1)","items()","get('a')"]
listm=["append(4)","index(1)","index(9)","count(1)","copy()","pop()","sort()","extend([1])","reverse()"]
dictm=["items()","keys()","values()","get('a')","get('zz')","get('zz',5)","get('zz',default=1)","items","copy()","pop('a')","update({})","setdefault('a')","a","b","x","x.y","x.y[1].z","keys()|list","items()|list","values()|sum"]
filt=["upper","lower","title","capitalize","trim","trim('H')","length","count","list","string","int","int(5)","int(base=16)","float","float(1.5)","abs","round","round(1)","round(1,'floor')","round(0,'ceil')","first","last","reverse","reverse|list","sort","sort(reverse=true)","sort(attribute='v')","sort(attribute='n')","sort(case_sensitive=true)","unique|list","unique(attribute='v')|list","map('upper')|list","map(attribute='n')|list","map(attribute='n',default='D')|list","map('int')|list","map('bad')|list","select|list","select('odd')|list","reject('none')|list","selectattr('v')|list","selectattr('v','equalto',1)|list","rejectattr('n','defined')|list","selectattr('n','in',['a','b'])|list","join","join(',')","join(', ',attribute='n')","join(',', 'n')","dictsort","dictsort(true)","dictsort(by='value')","dictsort(reverse=true)","groupby('v')|list","groupby('n')","groupby('n',default='x')","batch(2)|list","batch(2,'-')|list","slice(2)|list","slice(3,'-')|list","sum","sum(attribute='v')","sum(start=10)","min","max","min(attribute='v')","max(attribute='n')","default('D')","default('D',true)","d('x')","replace('o','0')","replace('o','0',1)","replace(1,2)","indent","indent(2)","indent(2,true)","indent(2,true,true)","indent('> ')","truncate(5)","truncate(5,true)","truncate(8,false,'..',0)","wordcount","center(20)","urlencode","items|list","tojson","tojson(indent=2)","tojson(ensure_ascii=true)","tojson(separators=(',',':'))","tojson(sort_keys=true)","tojson(indent=0)","safe","escape","e","forceescape","format(1,2)","format(a=1)","attr('a')","attr('upper')","xmlattr","filesizeformat","filesizeformat(true)","striptags","nofilter","safe|replace('a','<')","safe|upper"]
tests=["defined","undefined","none","string","mapping","sequence","iterable","number","integer","float","boolean","true","false","callable","odd","even","divisibleby(2)","divisibleby 3","lower","upper","in([1,7])","in 'Hello'","in(d)","eq(7)","==7","ne 7","gt 3","lt 3","ge(7)","le 2","sameas(true)","sameas none","escaped","filter","test","notest","equalto 'a'","greaterthan 2"]
lits=["'a'","'abc'","''","1","0","-2","3.5","1e3","10","[]","[1,2]","()","(1,)","(1,2)","{}","{'a':1}","true","none","'é'","\"q'\"","'\\n\\t'","2.0","1.0e-5","0.1","123456789.123"]
ops=["+","-","*","/","//","%","~"]
cmp=["==","!=","<",">","<=",">=","in","not in"]
fmts=["'%s'","'%d'","'%5d|'","'%-5d|'","'%05d'","'%+d'","'%x'","'%#x'","'%X'","'%o'","'%f'","'%.2f'","'%8.3f|'","'%08.2f'","'%e'","'%.3e'","'%g'","'%.3g'","'%r'","'%a'","'%c'","'%%'","'%s %s'","'%(a)s'","'%(b)05d'","'%5s|'","'%-5s|'","'%.2s'","'%*d'","'%i'","'%s%%'","'no'","'%'","'%z'","'% d'"]
fspecs=["{}","{:5}|","{:<5}|","{:>5}|","{:^6}|","{:*^7}","{:05}","{:+}","{:,}","{:_}","{:.2f}","{:10.3f}","{:e}","{:g}","{:.3}","{:%}","{:x}","{:#x}","{:b}","{:o}","{:c}","{:d}","{!r}","{!s:>5}","{0}{0}","{{}}","{:=+8}","{:08.2f}","{:,.2f}","{:012,}","{:s}","{:n}","{[0]}","{.real}","{:{}}","{","}","{:.1%}","{:E}","{!a}","{[a]}"]
def atom(d):
    r=R.random()
    if r<.45: return R.choice(names)
    if r<.8: return R.choice(lits)
    return "("+expr(d-1)+")" if d>0 else R.choice(names)
def expr(d):
    if d<=0: return atom(0)
    r=R.random()
    if r<.10: return atom(d)
    if r<.22: return atom(d)+R.choice([" "+o+" " for o in ops])+atom(d)
    if r<.32: return atom(d)+" "+R.choice(cmp)+" "+atom(d)
    if r<.42: return R.choice(names)+"."+R.choice(strm)
    if r<.47: return R.choice(names)+"."+R.choice(listm+dictm)
    if r<.68: return atom(d)+"|"+R.choice(filt)
    if r<.80: return atom(d)+" is "+R.choice(["","","not "])+R.choice(tests)
    if r<.84: return atom(d)+"["+R.choice([":","1:",":-1","::-1","::2","-2:","5:1:-1","1","-1","0","'a'","'items'","none","f","::0","2:1","s","-100:100","i"])+"]"
    if r<.89: return R.choice(fmts)+" % "+R.choice([atom(d),"("+atom(d)+", "+atom(d)+")"])
    if r<.94: return "'"+R.choice(fspecs)+"'.format("+atom(d)+R.choice(["",", "+atom(d)])+")"
    if r<.96: return "not "+atom(d)
    if r<.98: return atom(d)+" if "+atom(d)+R.choice([""," else "+atom(d)])
    return R.choice(["-","+"])+atom(d)
cases=[{"template":"{{ "+expr(2)+" }}","variables":V} for _ in range(N)]
want=[render(c["template"],c["variables"]) for c in cases]
p=subprocess.run([sys.argv[1]],input="\n".join(json.dumps(c) for c in cases)+"\n",capture_output=True,text=True)
got=[json.loads(l) for l in p.stdout.splitlines()]
if len(got)!=N: print("DIED",len(got),cases[len(got)]["template"],p.stderr[-500:])
ok=both=0;shown={}
import re
for c,w,g in zip(cases,want,got):
    we,ge=isinstance(w,dict),isinstance(g,dict)
    if we and ge: both+=1; continue
    if not we and not ge and w==g: ok+=1; continue
    if not we and re.search(r' at 0x[0-9a-f]+',w): continue
    k=("refuse "+g["error"][-70:] if ge else "ACCEPT "+w["error"][:70] if we else "DIFF "+c["template"])
    shown.setdefault(k,[]).append((c["template"],w,g))
print("equal",ok,"both",both,"bad",sum(map(len,shown.values())))
for k,v in sorted(shown.items(),key=lambda kv:-len(kv[1]))[:60]:
    t,w,g=min(v,key=lambda x:len(x[0]))
    print(len(v),t,"\n    want",repr(w)[:200],"\n    got ",repr(g)[:200])
