"""Records what Jinja2, set up as transformers sets it up, renders for small templates: one for each feature.

    python jinja.py > jinja.json        # jinja2 3.1.6, transformers 5.23.0, Python 3.11

A template that Jinja2 refuses is recorded as null.
"""
import copy
import json
import sys

from transformers.utils import chat_template_utils

V = {
    "s": "Hello World", "e": "", "u": "Straße Äö", "ml": "a\nb\r\nc\n\n d\te", "i": 7, "n": -3, "f": 2.5, "g": 1e-07,
    "h": 1e16, "t": True, "no": None, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "m": [1, "a", None, 2.0, True],
    "d": {"b": 1, "a": 2, "items": 3}, "dn": {"x": {"y": [1, {"z": "q"}]}, "k": "it's"}, "html": "<a href='x'>&",
    "lo": [{"n": "b", "v": 2}, {"n": "A", "v": 1}, {"n": "a", "v": 1}], "num": " 42 ",
}
METHODS = """upper() lower() title() capitalize() swapcase() casefold() strip('Hd') split() split('o',1) split(maxsplit=1)
rsplit('o',1) rsplit(None,1) splitlines() splitlines(keepends=true) partition('o') rpartition('o') removeprefix('He')
removesuffix('ld') zfill(15) ljust(15,'*') rjust(14) center(16,'-') find('o',5) rfind('o') index('o') index('zz')
rindex('o') count('l') startswith(('x','He')) endswith('d') replace('o','0',1) replace('','-',2) isalpha() isdigit()
isalnum() isupper() istitle() expandtabs(4) join(ls) join(m) append(1) encode""".split()
OTHERS = ["l.append(1)", "l.index(1)", "l.count(1)", "l.copy()", "l.pop()", "d.items()", "d.items", "d['items']", "dn['items'] is defined",
    "d.keys()", "d.values()|list", "d.get('a')", "d.get('q', 5)", "d.pop('a')", "d.update is defined", "d.q", "d.q.r", "x.y", "x", "x|length",
    "no.x", "no.x.y", "no|length", "i.real", "f.is_integer()"]
TESTS = """defined undefined none string mapping sequence iterable number integer float boolean true false callable odd
even divisibleby(2) lower upper in([1,7]) eq(7) ==7 sameas(true) escaped""".split()
FILTERS = ["upper", "title", "capitalize", "trim", "length", "list", "string", "int", "float", "abs", "round", "round(1)", "round(1,'floor')", "first",
    "last", "reverse|list", "sort", "sort(reverse=true)", "sort(attribute='v')", "unique|list", "map('upper')|list",
    "map(attribute='n')|list", "select|list", "selectattr('v','equalto',1)|list", "rejectattr('n','defined')|list", "join(',')",
    "join(', ',attribute='n')", "dictsort", "dictsort(by='value')", "groupby('v')", "batch(2,'-')|list", "slice(2)|list", "sum", "min",
    "max", "default('D')", "default('D',true)", "replace('o','0',1)", "indent(2,true)", "truncate(8,false,'..',0)", "wordcount",
    "urlencode", "items|list", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true,separators=(',',':'))", "escape", "safe", "nofilter"]
EXPRESSIONS = """1/2 | 7//2 | -7//2 | -7%3 | 2**10 | 2**-1 | 7.0//2 | 1e16 | 1e-5 | 0.1+0.2 | 3*'ab' | 'ab'*0 | [1]*2 | [1]+[2] | (1,)+(2,) | (1,) | ()
1+'a' | 'a'+1 | 'a'~1~none~true~1.0~[1,'x'] | 1<2<3 | 1<2>3 | 1==1.0 | true==1 | 'a'<'b' | 'a'<1 | [1,2]<[1,3] | 'a' in 'abc' | 1 in 'abc'
2 in [1,2] | 'a' in d | 'q' not in d | 1 in none | x in s | s in x | s[::-1] | s[1:3] | s[-1] | l[5] | l['x'] | l[:-1] | none[1:] | s[::0] | x[1:]
'%s' % s | '%s %s' % (1,'b') | '%(a)s' % d | '%d' % 3.7 | '%05.2f' % f | '%r' % s | '%x' % 255 | '%%' % () | '%s' % l | '%d' % 'a' | '%s' | 'no' % 1
'%-5s|' % 'a' | '%+d' % 3 | '%e' % 12345.678 | '%g' % 1e-5 | '%c' % 65 | '%s' % x | '{} {}'.format(1,'a') | '{0:>5}'.format('a') | '{a!r}'.format(a='b')
'{:,.2f}'.format(1234567.891) | '{:05d}'.format(-3) | '{[0]}'.format(l) | '{:x}'.format(255) | '{:%}'.format(0.5) | '{:.3}'.format(3.0) | '{'.format()
1 if x else 2 | 1 if x | x or 'd' | x and 1 | not x | x == y | none | true | l | d | m | dn | {1:2, 'a':(1,)} | 'it''s' | "a'b" | 'a"b\\'c' | '\\u00e9\\x41\\n'
range(3) | range(3)|list | range(5,0,-2)|list | dict(a=1, b=2) | namespace(a=1) | namespace(a=1).a | '<b>'|safe + html | html|e ~ html | raise_exception('no')
x is defined and x.y | s.upper | s is upper | 7 is odd | 7 is divisibleby 7 | ls|map('upper')|join | 10**19 | 3.0 | -0.0 | 1_000 | 0x1f | 1 is 2""".replace("\n", " | ").split(" | ")
STATEMENTS = [
    "{% for a in l %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for a in [] %}x{% else %}none{% endfor %}", "{% for a, b in d.items() %}{{ a }}={{ b }};{% endfor %}", "{% for a, b in l %}{% endfor %}",
    "{% for a in l if a > 1 %}{{ loop.index }}{{ a }}{% endfor %}", "{% for a in l %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in l %}{% if a == 1 %}{% break %}{% endif %}{{ a }}{% endfor %}", "{% for a in no %}{% endfor %}", "{% for a in x %}{% else %}e{% endfor %}",
    "{% set a = 1 %}{% for b in l %}{% set a = b %}{{ a }}{% endfor %}{{ a }}", "{% set ns = namespace(a=0) %}{% for b in l %}{% set ns.a = ns.a + b %}{% endfor %}{{ ns.a }}",
    "{% set a %}x{{ i }}{% endset %}{{ a }}", "{% set a | upper %}x{% endset %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set q.a = 1 %}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, 3, 4, 5, q=6) }}|{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(a) m() %}x{{ a }}{% endcall %}",
    "{% for a in [[1, [2]], [3]] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for a in l %}{{ loop.cycle('x', 'y') }}{{ loop.changed(a) }}{% endfor %}", "{% with a = 1, b = i %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% generation %}a{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}", "{% raw %}{{ x }}{% endraw %}",
    "a  {%- if t -%}  b  {%- endif -%}  c", "  {% if t %}\n  x\n  {% endif %}\ny\n", "  {%+ if t %}\n{{ i }}\n{%+ endif +%}\nz", "{# c #}\na{#- d -#} b", "a\n\n",
    "{% if no is iterable %}a{% elif s is sequence and s is not mapping %}b{% else %}c{% endif %}", "{% if %}{% endif %}", "{% for %}", "{{ 1", "{% foo %}",
    "{% include 'a' %}", "{% break %}", "{{ l|map('upper') | list }}", "{% block q %}{{ i }}{% endblock %}", "{% print 1, s %}", "{{ '}}' }}{{ {'a':{'b':1}} }}",
]


def render(template):
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        return compiled.render(**copy.deepcopy(V))
    except Exception:
        return None


templates = ["{{ %s }}" % text for text in EXPRESSIONS]
templates += ["{{ %s.%s }}" % (name, method) for name in ("s", "e", "u", "ml") for method in METHODS]
templates += ["{{ %s }}" % text for text in OTHERS] + STATEMENTS
templates += ["".join("{{ %s is %s }}" % (name, test) for name in ("i",)) for test in TESTS]
templates += ["{{ %s is %s }}" % (name, test) for test in TESTS for name in ("s", "no", "x", "d", "l", "t", "f", "range", "s.upper")
    # Python shows these two with an address.
    if not (test in ("lower", "upper") and name in ("range", "s.upper"))]
templates += ["{{ %s|%s }}" % (name, name_of) for name_of in FILTERS for name in ("s", "i", "f", "no", "x", "l", "d", "lo", "num", "html")]
cases = [[text, render(text)] for text in templates]
cases = [case for case in cases if case[1] is None or " at 0x" not in case[1]]
json.dump({"variables": V, "cases": cases}, sys.stdout, ensure_ascii=False, indent=0)
print()
