"""Compares every chat template of the installed TRL with Jinja2 under transformers, over conversations with tools,
calls, results, reasoning, parts and empty contents. By hand; nothing of TRL is kept here.

    cargo build -p unbraid-text --example render_template
    python parity/templates/compare.py target/debug/examples/render_template

With TRL 1.16 and transformers 5.23: 74 templates, 45880 renderings; every text equal, the same ones refused.
"""
import os

import trl
from transformers.utils import chat_template_utils


def render(template, variables):
    try:
        return chat_template_utils._compile_jinja_template(template).render(**variables)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


import sys, json, subprocess, glob, ast
T={}
base=os.path.dirname(trl.__file__)
for p in sorted(glob.glob(base+'/**/*.jinja*',recursive=True)):
    T[p[len(base)+1:]]=open(p).read()
for p in glob.glob(base+'/**/*.py',recursive=True):
    try: t=ast.parse(open(p).read())
    except Exception: continue
    for n in ast.walk(t):
        if isinstance(n,ast.Constant) and isinstance(n.value,str) and '{%' in n.value and 'messages' in n.value:
            T[p[len(base)+1:]+':'+str(n.lineno)]=n.value
print(len(T),'templates')
tool={"type":"function","function":{"name":"get_weather","description":"Gets the \"weather\" <b>now</b> & later.","parameters":{"type":"object","properties":{"city":{"type":"string","description":"The city"},"unit":{"type":"string","enum":["c","f"]},"days":{"type":"array","items":{"type":"integer"}},"opt":{"type":["string","null"],"default":None},"o":{"type":"object","properties":{"x":{"type":"number"}}}},"required":["city"]},"return":{"type":"string","description":"text"}}}
tool2={"type":"function","function":{"name":"noargs","description":"No args","parameters":{"type":"object","properties":{}}}}
call={"type":"function","id":"call00001","function":{"name":"get_weather","arguments":{"city":"Köln","days":[1,2],"f":1.5,"b":True,"n":None,"o":{"x":1e-5}}}}
call_str={"type":"function","id":"call00001","function":{"name":"get_weather","arguments":"{\"city\": \"X\"}"}}
U=lambda c="Hi there":{"role":"user","content":c}
A=lambda c="Hello!",**k:dict({"role":"assistant","content":c},**k)
S={"role":"system","content":"Be brief."}
toolmsg={"role":"tool","name":"get_weather","tool_call_id":"call00001","content":"{\"t\": 20}"}
toolmsg2={"role":"tool","content":[{"type":"text","text":"sunny"}]}
parts=[{"type":"text","text":"Look "},{"type":"image"},{"type":"text","text":"here"}]
convs=[
 [U()],[S,U()],[S,U(),A()],[U(),A(),U("more"),A("ok")],
 [U(),A("<think>\nhmm\n</think>\n\nYes")],
 [U(),A("<think>\nhmm\n</think>\n\nYes"),U("q"),A("<think>a</think>b")],
 [U(),A("Yes",reasoning_content="because")],
 [U(),A("Yes",thinking="because",reasoning="zz"),U("q2"),A("No",reasoning_content="r2")],
 [U(),A(None,tool_calls=[call]),toolmsg,A("20 degrees")],
 [S,U(),A("",tool_calls=[call,call]),toolmsg,toolmsg,A("20 degrees"),U("thx")],
 [U(),A("text",tool_calls=[call_str]),toolmsg],
 [U(),A("text",tool_calls=[call]),toolmsg2,A("done",reasoning_content="why")],
 [U(),{"role":"assistant","tool_calls":[call]},toolmsg],
 [U(),A(None)],[U(),A("")],[U(""),A(" x ")],
 [{"role":"user","content":parts},A([{"type":"text","text":"ok"}])],
 [{"role":"system","content":[{"type":"text","text":"sys"}]},{"role":"user","content":[{"type":"text","text":"t"}]}],
 [{"role":"developer","content":"dev"},U(),A()],
 [A("first"),U()],[U(),U("twice")],[S,S,U()],[],[S],
 [{"role":"weird","content":"x"}],[{"role":"user"}],
 [U("multi\nline <|im_end|> </think>"),A("a\n\nb\n")],
 [U({"a":1}),A(5)],
 [U(),A("x",tool_calls=[]),U(),A("y",tool_calls=[{"function":{"name":"noargs","arguments":{}}}]),{"role":"tool","content":"r"}],
 [U("/no_think hi"),A("z")],[U("/think hi")],
]
opts=[]
for agp in (False,True):
    for tools in (None,[tool],[tool,tool2]):
        for th in (None,True,False):
            o={"add_generation_prompt":agp,"tools":tools,"documents":None,"bos_token":"<s>","eos_token":"</s>","pad_token":"<pad>","unk_token":"<unk>"}
            if th is not None: o["enable_thinking"]=th
            opts.append(o)
opts.append({"add_generation_prompt":True,"tools":None,"documents":[{"title":"T","text":"doc"}],"bos_token":"<s>","eos_token":"</s>","reasoning_effort":"high","thinking":True})
opts.append({"add_generation_prompt":True,"tools":[tool],"documents":None,"bos_token":"<s>","eos_token":"</s>","reasoning_effort":"low","model_identity":"m","builtin_tools":["browser","python"],"custom_tools":None,"preserve_thinking":True,"clear_thinking":False,"date_string":"1 Jan 2025","xml_tools":[tool], "tools_in_user_message":False})
cases=[];names=[]
for n,t in T.items():
    for c in convs:
        for o in opts:
            cases.append({"template":t,"variables":dict(messages=c,**o)});names.append(n)
print(len(cases))
want=[render(c["template"],c["variables"]) for c in cases]
p=subprocess.run([sys.argv[1]],input="\n".join(json.dumps(c) for c in cases)+"\n",capture_output=True,text=True)
got=[json.loads(l) for l in p.stdout.splitlines()]
print(p.stderr[-500:],len(got))
from collections import Counter
bad=Counter();ex={};ok=0;err=0
for n,c,w,g in zip(names,cases,want,got):
    we,ge=isinstance(w,dict),isinstance(g,dict)
    if we and ge: err+=1; continue
    if not we and not ge and w==g: ok+=1; continue
    k=(n,'ours refuses: '+g["error"] if ge else 'ours accepts: '+w["error"] if we else 'differs')
    k=(n,k[1][:230]); bad[k]+=1; ex.setdefault(k,(c,w,g))
print('equal',ok,'both refuse',err,'bad',sum(bad.values()))
for k,v in bad.most_common(40):
    print(v,k)
    c,w,g=ex[k]
    if 'differs' in k[1]:
        i=next((i for i in range(min(len(w),len(g))) if w[i]!=g[i]),min(len(w),len(g)))
        print('   want',repr(w[max(0,i-40):i+80])); print('   got ',repr(g[max(0,i-40):i+80]))
sys.exit(bool(bad) or len(got) != len(cases))
