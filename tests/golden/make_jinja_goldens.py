#!/usr/bin/env python3
"""Writes jinja.json: small templates, with the texts that jinja2 3.1 renders from them under Hugging Face's settings.

Needs PyPI's jinja2 (3.1). Run from anywhere: python3 tests/golden/make_jinja_goldens.py
"""

import datetime
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONTEXT = {
    "n": 7,
    "neg": -7,
    "f": 2.5,
    "t": True,
    "nothing": None,
    "s": "Hello World",
    "u": "Größe 日本 😀 é",
    "lines": "one\ntwo\n\n  three\n",
    "empty": "",
    "xs": [3, 1, 2],
    "words": ["banana", "Apple", "cherry", "apple"],
    "nested": [[1, 2], [3, [4, "x"]], []],
    "d": {"b": 1, "a": {"k": [True, None, 1.5]}, "items": "shadow", "Z": "z"},
    "users": [
        {"name": "Bob", "age": 30, "tags": ["x", "y"], "city": "Oslo"},
        {"name": "alice", "age": 25, "tags": [], "city": "Rome"},
        {"name": "Carol", "age": 30, "city": "oslo"},
    ],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi\n there "},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "f": {"x": 1.0}}]},
    ],
}

# Expressions; each becomes the template {{ EXPRESSION }}.
EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
7 / 2
6 / 2
7 // 2
-7 // 2
7 // -2
7 % 3
-7 % 3
7 % -3
-7.5 % 2
7.5 // 2
-7.5 // 2
2 ** 10
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
10 ** 18
2 ** 62
(-3) ** 3
1 / 3
0.1 + 0.2
1e16
1e15
1.5e300 * 1e10
123456789.123456789
1e-5
0.0001
1.0
-0.0
100000000000000000000.0
5 % 3.5
1_000 + 0x1F + 0o17 + 0b101
1_0.5_0
true + 1
True * 5
true == 1
1 == 1.0
1 == '1'
none == None
not true
not not 1
not none and true
true and false or true
1 and 2
0 or 'x'
'' or none
n > 5 and n < 10
1 < 2 < 3
1 < 3 < 2
1 < 2 > 0 != 5
3 > 2 == 2
'a' < 'b'
'Z' < 'a'
[1, 2] < [1, 3]
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
1 in [1, 2]
'ell' in s
'' in s
'x' not in s
'a' in d
'q' not in d
3 in (1, 2, 3)
2 in range(3)
1 in users[0].tags
not 'a' in d
'a' ~ 1 ~ none ~ 2.0 ~ true
'a' + 'b' * 3
3 * 'ab'
[1] + [2] * 2
(1,) + (2,)
[0] * 3
'=' * n
'%s is %d' % ('x', 3)
'%05.1f|%-6s|%6s|%+d' % (3.14159, 'ab', 'cd', 5)
'%x %X %o %e %g' % (255, 255, 8, 12345.678, 0.0001)
'%s' % 5
'%r %s' % ('a', none)
'%%' % ()
'%(a)s-%(b)s' % {'a': 1, 'b': 2}
'100%' ~ ''
n if n > 5 else 'small'
'yes' if false
('yes' if false) is undefined
'a' if false else 'b' if false else 'c'
xs[0]
xs[-1]
xs[10]
xs[10] is defined
xs[1:]
xs[:-1]
xs[::-1]
xs[::2]
xs[5:]
xs[-2:]
s[0]
s[-1]
s[1:4]
s[::-1]
s[::3]
s[-100:100]
u[0:5]
u[6:8]
u[-3]
u[::-1]
u | length
(1, 2, 3)[1:]
range(10)[2:8:2]
range(10)[3]
range(5)
range(1, 10, 3) | list
range(5, 0, -2) | list
range(0) | list
range(3) | length
range(3) == range(0, 3, 1)
d.b
d['b']
d.a.k[2]
d['a']['k'][0]
d['items']
d.missing
d.missing is defined
d.a.missing is defined
d.get('b')
d.get('q')
d.get('q', 5)
d.keys() | list
d.values() | list
d.items() | list
d.items() | length
d.keys()
d.items()
d | length
d | list
d
nested
nothing
t
f
n
u
xs
users
'quote\'s'
["it's", 'say "hi"', 'both \' and "', 'new\nline\ttab\\', '\x00\x7f', 'é日😀', '\u200b\xa0']
(1,)
()
[]
{}
{'a': (1, 2), 1: 'x', none: true, 2.5: []}
{'a': 1, 'a': 2}
{1: 'a', true: 'b', 1.0: 'c'}
{(1, 2): 3}[(1, 2)]
[1, 2,]
{'a': 1,}
'abc' 'def'
"a\tb\nc\\d\"e\x41\u00e9\101\q"
users[0].name
users.0.name
users[0]['tags'][1]
users | map(attribute='name') | list
users | map(attribute='name') | join(', ')
users | map(attribute='tags.0', default='none') | list
users | map(attribute='zip', default='?') | list
users | map(attribute='city') | map('upper') | list
words | map('length') | list
words | map('replace', 'a', 'A') | list
words | map('truncate', length=4, end='.', leeway=0) | list
users | selectattr('age', 'gt', 26) | map(attribute='name') | list
users | selectattr('age', 'equalto', 30) | list | length
users | selectattr('tags') | map(attribute='name') | list
users | selectattr('tags', 'defined') | map(attribute='name') | list
users | rejectattr('age', '==', 30) | map(attribute='name') | list
users | rejectattr('tags') | map(attribute='name') | list
xs | select('odd') | list
xs | select('greaterthan', 1) | list
xs | reject('even') | list
[0, 1, '', 'a', none] | select | list
[0, 1, '', 'a', none] | reject | list
words | select('in', ['apple', 'cherry']) | list
xs | sort
xs | sort(reverse=true)
words | sort
words | sort(case_sensitive=true)
users | sort(attribute='age') | map(attribute='name') | list
users | sort(attribute='age,name') | map(attribute='name') | list
users | sort(attribute='age', reverse=true) | map(attribute='name') | list
words | unique | list
words | unique(case_sensitive=true) | list
users | unique(attribute='city') | map(attribute='name') | list
xs | min
xs | max
words | min
words | max
words | min(case_sensitive=true)
users | max(attribute='age') | attr('x') is defined
[] | min is defined
[] | max | default('none')
xs | sum
users | sum(attribute='age')
xs | sum(start=10)
[[1], [2]] | sum(start=[])
xs | first
xs | last
[] | first is defined
'abc' | first
'abc' | last
d | first
xs | length
xs | count
xs | reverse | list
s | reverse
xs | join
xs | join('-')
words | join(', ')
users | join(',', attribute='name')
'abc' | join('.')
d | join(',')
s | upper
s | lower
u | upper
'straße' | upper
'ÀÉÎ ΑΒΓ' | lower
'hello wORLD-foo (bar)' | title
'hello wORLD' | capitalize
"they're bill's" | title
'hello wORLD-foo they\'re'.title()
s | replace('l', 'L')
s | replace('l', 'L', 1)
'aaa' | replace('a', 'b', 2)
12321 | replace(2, 'x')
'  x  ' | trim
'xxhixx' | trim('x')
'\u3000 x\xa0' | trim
s | length
s | wordcount
u | wordcount
'hello' | center(11)
'hello' | center(10)
'foo bar baz qux' | truncate(9)
'foo bar baz qux' | truncate(9, true)
'foo bar baz qux' | truncate(11)
'foo bar baz qux' | truncate(9, false, '…')
'foo bar baz qux' | truncate(9, leeway=0)
lines | indent
lines | indent(2)
lines | indent(2, true)
lines | indent(2, true, true)
lines | indent('> ', blank=true)
lines | indent(width=1, first=true)
'' | indent
'42' | int
'42.7' | int
'x' | int
'x' | int(5)
'0x1A' | int(0, 16)
'1A' | int(base=16)
'0b11' | int(0, 2)
'077' | int(base=8)
' 12 ' | int
'1_000' | int
'-5' | int
3.99 | int
-3.99 | int
true | int
none | int(9)
'3.5' | float
'x' | float
'x' | float(1.5)
'1e3' | float
'inf' | float
'nan' | float
3 | float
2.5 | round
3.5 | round
2.567 | round(2)
2.5 | round(0, 'ceil')
2.5 | round(method='floor')
1234 | round(-2)
1250 | round(-2)
1350 | round(-2)
1234.5 | round(-2)
-2.5 | round
2.675 | round(2)
0.5 | round
7 | round(1)
7 | round(1, 'floor')
-5 | abs
5.5 | abs
-0.0 | abs
missing | default('d')
missing | d
none | default('d')
'' | default('d')
'' | default('d', true)
none | d('x', boolean=true)
'a,b' | string
5 | string
none | string | length
xs | string
'<a href="x">\'&' | escape
'<b>' | e
'<b>' | safe
('<b>' | safe) + '<i>'
'<b>' | e | e
'<b>' | e ~ '<'
('<b>' | e) is escaped
'a b/c?d=é&~' | urlencode
{'a b': 'c&d', 'e': 1} | urlencode
[('x', 'y z')] | urlencode
'%s, %s!' | format('Hello', 'you')
'%(a)d' | format(a=3)
d | items | list
missing | items | list
d | dictsort
{'b': 1, 'A': 2, 'c': 0} | dictsort
{'b': 1, 'A': 2, 'c': 0} | dictsort(true)
{'b': 1, 'A': 2, 'c': 0} | dictsort(by='value')
{'b': 1, 'A': 2, 'c': 0} | dictsort(false, 'value', true)
range(7) | batch(3) | list
range(7) | batch(3, 'x') | list
range(7) | slice(3) | list
range(7) | slice(3, 'x') | list
users | groupby('age') | list | length
users | groupby('city') | map('first') | list
users | groupby('city', case_sensitive=true) | map('first') | list
users | groupby('zip', default='?') | map(attribute='grouper') | list
users | map(attribute='name') | sort | join(' ')
(users | groupby('age'))[0]
1024 | filesizeformat
1 | filesizeformat
123456789 | filesizeformat
123456789 | filesizeformat(true)
d | tojson
d | tojson(indent=2)
d | tojson(indent=0)
d | tojson(indent='--')
d | tojson(separators=(',', ':'))
d | tojson(indent=1, separators=(';', ' = '))
d | tojson(sort_keys=true)
u | tojson
u | tojson(ensure_ascii=true)
u | tojson(true)
[1, 2.0, 1e20, 1e-7, true, none, 'a"b\\c/\n\t\x01\x7f<>&\''] | tojson
{1: 2, none: 3, true: 4, 2.5: 5} | tojson
[] | tojson(indent=2)
[[], {}] | tojson(indent=2)
(1, (2,)) | tojson
'inf' | float | tojson
messages | tojson
n is defined
zzz is defined
zzz is undefined
none is none
n is number
t is number
t is integer
t is boolean
1 is boolean
n is integer
f is float
n is float
s is string
xs is string
xs is iterable
s is iterable
n is iterable
zzz is iterable
d is mapping
xs is mapping
xs is sequence
s is sequence
d is sequence
n is sequence
range(3) is sequence
d.items() is sequence
d.items() is iterable
(1, 2) is sequence
true is true
1 is true
false is false
n is odd
n is even
n is divisibleby 7
n is divisibleby(2)
n is not odd
n is eq 7
n is equalto(7)
n is ne 7
n is lt 8
n is le 7
n is gt 7
n is ge 7
n is greaterthan 6
n is lessthan 6
2 is in xs
'x' is in 'xyz'
n is sameas n
none is sameas none
true is sameas 1
'abc' is lower
'ABC' is upper
'AbC' is lower
'' is lower
'é1' is lower
d.get is callable
range is callable
n is callable
zzz is callable
'upper' is filter
'uppper' is filter
'odd' is test
'oddd' is test
s is string and n is number
n is number or zzz is defined
not n is string
n is not string
n is not defined or true
s.upper()
s.lower()
s.title()
s.swapcase()
'hELLO'.capitalize()
' x '.strip() ~ '|'
'xxaxx'.strip('x')
'abcba'.lstrip('ab')
'abcba'.rstrip('ab')
'\n\n a \n'.lstrip('\n')
'a b  c'.split()
'a b  c'.split(' ')
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
'a b c'.rsplit(none, 1)
'  a b c '.split(none, 1)
'aXXbXXXc'.rsplit('XX')
'a\nb\r\nc\x0bd\n'.splitlines()
'a\nb\n'.splitlines(true)
''.split()
''.split(',')
''.splitlines()
s.startswith('Hell')
s.startswith(('x', 'H'))
s.startswith('World', 6)
s.endswith('World')
s.endswith(('x', 'y'))
s.endswith('lo', 0, 5)
s.find('o')
s.find('o', 5)
s.find('zz')
s.rfind('o')
u.find('日')
u.rfind('é')
s.index('W')
s.count('l')
s.count('')
'aaaa'.count('aa')
s.replace('o', '0')
s.replace('o', '0', 1)
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
''.replace('', 'x')
'-'.join(words)
''.join(['a'])
','.join('abc')
','.join([])
'{} {}'.format('a', 1)
'{0}-{1}-{0}'.format('a', 'b')
'{x:>5}|{y:<5}|{z:^5}|'.format(x='a', y='b', z='c')
'{:05d} {:+.2f} {:x} {:,} {:.1%} {:e}'.format(42, 3.14159, 255, 1234567, 0.256, 12345.678)
'{:*^9}'.format('mid')
'{!r} {!s}'.format('a', 'b')
'{{}} {a.b} {b[0]} {c[k]}'.format(a={'b': 1}, b=[2], c={'k': 3})
'{:{w}}|'.format('a', w=4)
'{:#x} {:#b} {:_}'.format(255, 5, 12345678)
'{}'.format(none)
'{:.3}'.format('abcdef')
'{:g} {:g} {}'.format(1e10, 0.5, 1.0)
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('x')
'abc'.rpartition('x')
'prefix-x'.removeprefix('prefix-')
'x.txt'.removesuffix('.txt')
'a'.ljust(3) ~ '|'
'a'.rjust(3, '*')
'a'.center(4, '.')
'ab'.center(5, '.')
'42'.zfill(5)
'-42'.zfill(5)
'123'.isdigit()
'12a'.isdigit()
''.isdigit()
'abc'.isalpha()
'ab1'.isalnum()
' \t'.isspace()
'ABC'.isupper()
'abc'.islower()
'Hello World'.istitle()
'١٢'.isdecimal()
'½'.isnumeric()
'abc'.isidentifier()
'a\n'.isprintable()
'abc'.isascii()
'é'.isascii()
xs.index(1)
xs.count(2)
xs.copy()
(1, 2, 1).count(1)
d.copy() == d
s.missing is defined
n.missing is defined
nothing.x is defined
xs.append is defined
xs.append is callable
d.pop is undefined
d.__class__ is defined
s._x is defined
dict(a=1, b=2)
dict([('a', 1)], b=2)
dict({'x': 1})
namespace(a=1)
namespace(a=1).a
namespace(a=1).b is defined
namespace({'x': 2}).x
namespace(a=1)['a']
zzz
zzz | length
zzz ~ 'x'
zzz == yyy
zzz == none
zzz in [1]
zzz or 'default'
not zzz
[zzz]
zzz | join(',')
zzz | list
zzz | upper
zzz | trim
zzz | string | length
-n
+n
- -n
-xs[0]
-n | abs
2 - -3
n - 1 if n else 0
(n, s)
n, s
[x, y] if false else 'no'
'a' in 'abc' and 'b' not in 'xyz'
1 if 0 else 2 if 0 else 3
('a' ~ 'b') | upper
'a' ~ 'b' | upper
xs | map('string') | join
[1, [2, 3]] | string
{'a': {'b': [1, {'c': none}]}}
1.0 | string
1e100
123456789012
9223372036854775807
-9223372036854775807 - 1
3.0 == 3
3 // 2.0
'%.2f' % 2
'%d' % 3.9
'%5s|%-5s|' % ('é', '日')
'%c%c' % (65, 'b')
'%i' % true
0x_ff
0 == false
'' == false
'1' * 3
xs | list is sameas xs
loop is defined
caller is defined
range(3) | map('string') | list
range(3) | sum
range(10) | select('divisibleby', 3) | list
[{'a': {'b': 2}}, {'a': {'b': 1}}] | sort(attribute='a.b') | list
[('b', 2), ('a', 1)] | sort
[('b', 2), ('a', 1)] | map(attribute=1) | list
[['x', 1]] | map('first') | list
[true, false] | sort
[1.5, 1, 2] | sort
['b', 'A'] | sort | first
"a" "b" ~ 'c'
d.a.k | last
d['a'].k[:2]
d.a['k'] | length
(d | items | list)[0][0]
'x' * 0
'x' * -1
[] or {} or 'z'
1 // 1 == 1 and 5 % 5 == 0
messages[-1].tool_calls[0].f.x
messages[-1].content is none
messages[1]['content'] | trim
messages[1].content.split('\n') | map('trim') | join('+')
messages | selectattr('role', 'equalto', 'user') | list | length
messages | map(attribute='role') | join('|')
(messages | last).role
messages[1:] | length
messages[1:3][0].role
"tool_calls" in messages[2]
'tool_calls' in messages[0] and messages[0].tool_calls
messages[0].tool_calls is not defined
messages[0]['tool_calls'] is undefined
messages | length - 1
messages[(messages | length) - 1].role
'the quick brown fox jumps over the lazy dog' | wordwrap(10)
'the quick brown fox' | wordwrap(3)
'a\n\nb c d e f\nghi jkl' | wordwrap(4)
'aaaaaaaaaaaa bbb' | wordwrap(5)
'aaaaaaaaaaaa bbb' | wordwrap(5, false)
'well-known self-made-man a-b ab-cd x--y end' | wordwrap(6)
'well-known self-made-man' | wordwrap(6, break_on_hyphens=false)
'Look, goof-ball -- use the -b option! or--else "quoted"--yes' | wordwrap(8)
'----aaaa--bbbb-cccc' | wordwrap(7)
'  lead  and   many    spaces  ' | wordwrap(9)
'a b c d' | wordwrap(3, wrapstring='|')
'a b\nc d' | wordwrap(1, true, '<br>')
'Größe 日本語 日本 é日é-ñandú x' | wordwrap(5)
'\u3000 a\u3000b \t c' | wordwrap(4)
'1-2 3-a aa-1b a_-_b ½½-½½' | wordwrap(3)
'abcd   efgh' | wordwrap(4)
'abc ' | wordwrap(3)
'' | wordwrap(5)
'' | wordwrap(0)
'<b>a</b>  &lt;x&gt;\n <i class="q">y</i>' | striptags
'a <!-- c <b> --> d <!----> e <!--> f <!---> g' | striptags
'a<!<!-- x -->-- y -->b' | striptags
'a < b and c > d, x < y' | striptags
'a <!-- no end <b>' | striptags
'&amp;&lt;&gt;&quot;&#39;&#x41;&#65;&#128;&#0;&#xD800;&#1114112;&#11;&#99999999999999999999;' | striptags
'&copy &copyx &notit; &notin; &noSuch; &; & &#; &#x; &Acirc;&bne;&NotEqualTilde;&amp' | striptags
'&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; &CounterClockwiseContourIntegral;&CounterClockwiseContourIntegralx' | striptags
5 | striptags
('<b>' | e) | striptags
zzz | striptags
{'class': 'my list', 'id': none, 'n': 5, 'x': zzz, 'q': '<"&'} | xmlattr
{'a': 1} | xmlattr(false)
{'a': 1, 'b': true} | xmlattr(autospace=false)
{'a': '<b>' | safe} | xmlattr
{} | xmlattr
'see http://example.com/a?b=c&d, (www.x.org) <https://y.io> or mail@site.com.' | urlize
'http://example.com/a(b) (http://example.com/a) foo.com foo.bar bar-baz.net x.org/y#z' | urlize
'http://1.2.3.4:80/x http://[::1]/ http://[1:2:3::]:8/ https://localhost:5000 HTTP://A.DE ftp://x.com' | urlize
'http://a_b.co%20.x www.1.2 www.é.fr xn--a.com http://xn--ab.xn--cd a..com .com b.com:123456 b.com:x' | urlize
'mailto:a@b.co mailto:a.b @a@b.co a@b@c.co a:b@c.de x@y.z- www.a@b.co é@ü.de a@-b.co' | urlize
'http://example.com/long/path/that/is/long' | urlize(15)
'http://example.com' | urlize(nofollow=true, target='_blank')
'http://example.com' | urlize(rel='zz aa noopener', target='a"b')
'tel:123 ftp://x git+ssh://y tel:' | urlize(extra_schemes=['tel:', 'ftp://'])
'&lt;http://example.com&gt; ((http://a.com/x(y)z)) http://a.com,.' | urlize
('<b> http://a.com' | e) | urlize
'  http://a.com \t\n www.b.com\n' | urlize
'' | urlize
d | pprint
{'b': 1, 'a': [2, 1], 'c': {'z': 1, 'y': 2}} | pprint
{'name': 'x' * 30, 'other': ['y' * 30, 'z' * 30, {'k': 'v' * 40}], 'a': none} | pprint
range(40) | list | pprint
(1, 'a' * 79) | pprint
('a' * 79,) | pprint
('lorem ipsum dolor sit amet ' * 8) | pprint
['lorem ipsum dolor sit amet ' * 8, 'short'] | pprint
{'k': 'lorem ipsum dolor\nsit amet ' * 8} | pprint
('line one\n' * 12) | pprint
('x' * 100) | pprint
['x' * 100] | pprint
['é日' * 20, "it's " * 20] | pprint
{1: 'a', 'b': 2, none: 3, (1, 2): 4, 2.5: 5} | pprint
[[], {}, (), 'a' * 80] | pprint
[[[['deep ' * 10, 'deeper ' * 10]]]] | pprint
users | pprint
5 | pprint
none | pprint
'' | pprint
'abc' | pprint
('<b>' | safe) | pprint
zzz | pprint
[7] | random
{'a': 1} | items | list | random
'x' | random
[] | random is defined
zzz | random is defined
range(4, 5) | random
'ŉ ﬁ ﬄ ß ǰ ΐ և' | upper
'ŉ ﬁ ﬄ ß ǰ ǆ' | title
'ŉ ﬁx' | capitalize
'ßa'.title() ~ 'ﬂoor'.capitalize() ~ 'ǆ'.title()
'ΑΣ ΣΑΣ Σ ΑΣΑ' | lower
'ΑΣ. ΑΣ.Α Α.Σ ΑΣ’ Σ’Σ A\u0301Σ\u0301 日Σ ªΣ ʰΣ' | lower
'ΑΣ'.title() ~ 'ΑΣ'.capitalize() ~ 'ΑΣ ΣΣ'.swapcase() ~ 'ας'.swapcase()
'İstanbul I' | lower
'ªº ⅷ ⓐ'.islower()
'Ⅷ Ⓐ'.isupper()
'ª'.isupper()
'ⅷⓐ' | upper
'Ⅷ Ⓐ' | lower
'Aª ⅷ'.istitle()
'ŉß'.swapcase()
""".strip("\n").split("\n")

# Expressions whose templates must fail.
FAILING = r"""
zzz.x
zzz['x']
zzz + 1
1 + zzz
zzz()
zzz < 1
-zzz
d.missing.deeper
d['missing']['deeper']
1 + 'a'
'a' + 1
[1] + (2,)
1 / 0
1 // 0
1 % 0
1.0 / 0
'a' < 1
[1] < 'a'
1 in 5
1 in 'abc'
none.x.y
n()
s()
xs.append(1)
xs.pop()
d.update({})
d.pop('a')
d.setdefault('q', 1)
xs.sort()
d.__class__.x
range(1000000)
range(0, 5, 0)
range()
range('a')
raise_exception('no')
5 | length
n | join
none | list
xs | nosuchfilter
xs is nosuchtest
xs | map('nosuchfilter') | list
xs | map | list
['a', 1] | sort
[{}] | unique | list
{[]: 1}
{{}: 1}
s.nosuch()
s.split('')
'a'.index('b')
'a'.join([1])
'%d' % 'x'
'%s %s' % (1,)
'%s' % (1, 2)
'{} {}'.format(1)
'{x}'.format(1)
'{'.format()
xs | batch | list
s | indent('a', 'b', 'c', 'd')
s | replace('a')
xs | round
'abc' | abs
zzz | int
zzz | tojson
range(3) | tojson
xs | first(1)
xs[::0]
xs | select('odd') | length
2 ** 'a'
none | length
{'a': 1} + {'b': 2}
xs | sum(start='')
[1, 'a'] | sum
namespace(1)
dict(1)
s | truncate(2, false, '....')
5 | dictsort
5 | items | list
loop.index
1 ~ 2 + 3
missing.x is defined if missing is defined else 'no'
1 + 2 | string
none + none
not_a_macro(1)
'a' * 'b'
xs * xs
{}['a'].b
1 is divisibleby 0
'a' is odd
(1, 2) + [3]
s.startswith(1)
2.5 | round(1, 'weird')
'abc' | wordwrap(0)
5 | wordwrap
zzz | wordwrap
{'a b': 1} | xmlattr
{'a=': 1} | xmlattr
[1] | xmlattr
zzz | xmlattr
'x' | urlize(extra_schemes=['tel'])
'x' | urlize(extra_schemes=[':'])
'x' | urlize(target='a', nope=1)
5 | random
d | random
d.items() | random
xs | pprint(1, 2)
""".strip("\n").split("\n")

# Whole templates; each may have its own variables.
TEMPLATES = [
    "{% for x in xs %}{{ x }},{% endfor %}",
    "{% for x in [] %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in xs %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }};{% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in xs %}{{ loop }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }};{% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}-{{ b }};{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for x in range(10) if x is odd %}{{ x }}{{ loop.index }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for x in xs if x > 5 %}{{ x }}{% else %}nothing{% endfor %}",
    "{% for c in 'añb' %}{{ c }}.{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in range(10) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in xs %}{% for y in 'ab' %}{{ x }}{{ y }}{{ loop.index }}{% if y == 'a' and x == 1 %}{% break %}{% endif %}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% for x in xs %}{% set y = x %}{% endfor %}{{ y is defined }}",
    "{% set y = 1 %}{% for x in xs %}{% set y = y + x %}{{ y }} {% endfor %}{{ y }}",
    "{% set ns = namespace(total=0) %}{% for x in xs %}{% set ns.total = ns.total + x %}{% endfor %}{{ ns.total }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b = ns.a + 1 %}{{ ns.a }}{{ ns.b }}{{ ns }}",
    "{% set ns.x = 1 %}",
    "{% set q = {} %}{% set q.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a %}block {{ n }}{% endset %}[{{ a }}]",
    "{% set a | upper | replace('B', 'x') %}block{% endset %}{{ a }}",
    "{% set a %}{% set b = 1 %}{% endset %}{{ b is defined }}",
    "{% if false %}{% set x = 1 %}{% endif %}{{ x is defined }}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if n == 1 %}a{% elif n == 7 %}b{% else %}c{% endif %}",
    "{% if not n %}a{% elif zzz %}b{% else %}c{% endif %}",
    "{% if xs %}yes{% endif %}{% if [] %}no{% endif %}{% if zzz %}no{% endif %}{% if 'a' %}yes{% endif %}{% if 0.0 %}no{% endif %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c=5) }} {{ m(b=1, a=0) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}hi {{ n }}{% endcall %}",
    "{% macro m() %}{{ caller(1, b=2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}g{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ later }}{% endmacro %}{% set later = 5 %}{{ f() }}",
    "{% set v = 1 %}{% macro f() %}{{ v }}{% set v = 2 %}{{ v }}{% endmacro %}{{ f() }}{{ v }}",
    "{% macro f() %}{{ x }}{% endmacro %}{% for x in xs %}{{ f() }}{% endfor %}|",
    "{% for x in xs %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}",
    "{% macro f() %}a{% endmacro %}{{ f() | upper }}{{ f() ~ 1 }}{{ f.name }}{{ f }}",
    "{% macro f(x) %}{% for i in x %}{{ i }}{{ f([]) }}{% endfor %}{% endmacro %}{{ f([1, 2]) }}",
    "{% filter upper %}abc {{ s }}{% endfilter %}",
    "{% filter trim | replace('a', 'b') %}  aXa  {% endfilter %}|",
    "{% filter indent(2, true) %}a\nb{% endfilter %}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}",
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% raw %}{{ x }}{% if %}{# no #}{% endraw %}",
    "a{%- raw -%}  {{ x }}  {%- endraw -%}  b",
    "  {% raw %}\n x\n  {% endraw %}\ny",
    "{# comment #}a{#- b -#}  c",
    "a {#- x #} b {# y -#} c",
    "{% block x %}b{% endblock %}{% block y %}c{% endblock y %}",
    "{% print n, %}",
    "{% print n %}",
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}\nc\n\n",
    "a\n  {%+ if true %}\nb{% endif +%}\nc",
    "a  {%- if true -%}  b  {%- endif -%}  c",
    "a  \n\n {{- n -}} \n\n b",
    "  {{ n }}  \n  {{ s }}\n",
    "x {% if true %}\n y {% endif %}\n z",
    "\t{% if true %}x{% endif %}\n\t{# c #}\n\tend",
    "{% for x in xs %}\n  {{ x }}\n{% endfor %}\nend",
    "{%- for x in xs %}\n  {{- x }}\n{%- endfor %}\nend\n",
    "{%for x in xs%}{{x}}{%endfor%}",
    "{{'a'}}{{ '}}' }}{{ \"%}\" }}{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{ {'a': {}} }}",
    "{{ '{{' }} {{ '{%' }}",
    "a\r\nb\rc\n",
    "line\n\n\n",
    "{{ 'a\nb' }}",
    "{{ n }}{# {{ n }} #}{{ n }}",
    "{% set x = 5 -%}\n\n  x={{ x }}",
    "   {%- set x = 5 %}\nx={{ x }}",
    "text {{- ' a ' -}} text",
    "{{ n -}}\n{{ n }}",
    "\n{% if true %}a{% endif %}\n\n{% if true %}b{% endif %}",
    "{% if true %}a{% endif %} {% if true %}b{% endif %}\n",
    "  {% set a = 1 %}  {% set b = 2 %}\n{{ a }}{{ b }}",
    "{% generation %}a{{ n }}{% endgeneration %}b",
    "{% for x in xs %}{% generation %}{{ x }}{% endgeneration %}{% endfor %}",
    "{% generation %}{% set z = 1 %}{% endgeneration %}{{ z is defined }}",
    "{% for item in tree recursive %}({{ item.v }}{% if item.c %}{{ loop(item.c) }}{% endif %}{{ loop.depth }}){% endfor %}",
    "{% for x in xs recursive %}{{ x }}{{ loop.depth0 }}{% endfor %}",
    "{% for x in xs %}{{ loop([1]) }}{% endfor %}",
    "{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}",
    "{% set j = joiner('; ') %}{% for x in xs %}{{ j() }}{{ x }}{% endfor %}",
    "{% set g = xs | map('string') %}{{ g | list }}{{ g | list }}",
    "{% set g = xs | select %}{{ g | first }}{{ g | list }}",
    "{% for x in xs | sort %}{{ x }}{{ loop.length }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{{ loop.index0 }}{% endif %}{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.role }}{% if not loop.last %}>{% endif %}{% endfor %}",
    "{% for g in users | groupby('age') %}{{ g.grouper }}:{% for u in g.list %}{{ u.name }} {% endfor %}{% endfor %}",
    "{% for age, us in users | groupby('age') %}{{ age }}:{{ us | length }} {% endfor %}",
    "{% for row in range(5) | batch(2, '-') %}{{ row | join(',') }};{% endfor %}",
    "{% set x = 1 %}{% for i in [1] %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}",
    "{% for i in [1, 2] %}{{ x is defined }}{% set x = 2 %}{% endfor %}",
    "{% for loop_x in xs %}{{ loop_x }}{% endfor %}",
    "{% for x in xs %}{% set outer = loop %}{% for y in [1] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{{ messages[0]['role'] }}{{ messages[0].role }}{{ messages.0.role }}",
    "{{ m(*xs) }}{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}",
    "{% macro m(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*xs) }}{{ m(**{'a': 1, 'b': 2, 'c': 3}) }}{{ m(1, *[2, 3]) }}",
    "{{ '%s-%s' | format(*['a', 'b']) }}",
    "{{ dict(**d)['b'] }}",
    "{% if 'x' is nosuch %}{% endif %}",
    "{% if false %}{{ 1 | nosuch }}{% endif %}ok",
    "{% if 'nosuch' is filter %}{{ 1 | nosuch }}{% endif %}ok",
    "{% if n is defined and n is number and n > 3 %}big{% endif %}",
    "{{ x }}{% set x = 3 %}{{ x }}",
    "{% set x = x | default('none') %}{{ x }}",
    "{% set n = n + 1 %}{{ n }}",
    "{% set _ = 1 %}{{ _ }}",
    "{% for _ in range(3) %}.{% endfor %}",
    "{% for x in d %}{{ x }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
    "{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%d %b %Y, %A %H:%M:%S') }}|{{ strftime_now('%B %-d %j %%') }}|{{ strftime_now('') }}",
    "{{ raise_exception('bad ' ~ n) }}",
    "{% if false %}{{ raise_exception('x') }}{% endif %}fine",
    "",
    "plain",
    "{{ n }",
    "{{ n",
    "{% if n %}",
    "{% endif %}",
    "{% for x in xs %}",
    "{% foo %}",
    "{{ }}",
    "{{ 1 + }}",
    "{{ (1 }}",
    "{{ [1 }}",
    "{{ 'a }}",
    "{{ a b }}",
    "{{ a. }}",
    "{{ a | }}",
    "{{ a is }}",
    "{{ 1 ! 2 }}",
    "{{ a ? b }}",
    "{% set 1 = 2 %}",
    "{% set true = 2 %}",
    "{% set a b %}",
    "{% for in xs %}{% endfor %}",
    "{% for x xs %}{% endfor %}",
    "{% break %}",
    "{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for x in xs %}{% set loop = 1 %}{% endfor %}",
    "{% for loop in xs %}{% endfor %}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m( %}{% endmacro %}",
    "{% call 5 %}{% endcall %}",
    "{% raw %}x",
    "{# x",
    "{{ f(a=1, 2) }}",
    "{{ f(**a, *b) }}",
    "{{ n is odd is even }}",
    "{% if %}{% endif %}",
    "{% else %}",
    "{% if n %}{% else %}{% else %}{% endif %}",
    "{% for x in xs if %}{% endfor %}",
    "{% set x %}",
    "{% block %}{% endblock %}",
    "{{ xs[1:2:1:1] }}",
    "{{ 'a' if }}",
    "{{ 5.foo }}",
    "{{ 5 .foo is defined }}",
    "{{ (5).foo is defined }}",
    "{{ 1.5.x is defined }}",
    "{{ a.1.b is defined }}",
    "{{ [[1, 2], [3]].0.1 }}",
    "{{ not }}",
    "{{ - }}",
    "{{ '\\u12' }}",
    "{{ a, }}",
    "{{ () }}{{ (1,) }}{{ ((1)) }}{{ (1, 2,) }}",
    "{% if n: %}colon{% endif %}",
    "{% for x in xs: %}{{ x }}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
    "{% for x in xs if x > 1 and x < 3 or x == 3 %}{{ x }}{% endfor %}",
    "{% for x in (xs if n else []) %}{{ x }}{% endfor %}",
    "{% if n if t else f %}x{% endif %}",
    "{{ n if t }}{{ n if not t }}|",
    "{{ 'a' 'b' }}{{ \"c\" 'd' }}",
    "{{ xs|join(', ')|upper|length }}",
    "{{ s|replace('World', n|string)|trim('H') }}",
    "{{ (xs|sort)[0] }}{{ xs|sort|first + 1 }}",
    "{{ n|string + 's' }}{{ -n|abs }}{{ (-n)|abs }}",
    "{{ not n is odd }}{{ not xs|length > 2 }}",
    "{{ {'k': xs|first}.k }}{{ [n if t else f][0] }}",
    "{{ '' if none is none else 1 }}|{{ none or '' }}|{{ none }}",
    "{{ 'Ä' ~ 'ö' | upper }}{{ 'ﬁ' | length }}{{ 'e\\u0301' | length }}",
    "{% set x = 'a' %}{% set x = x ~ 'b' %}{% set x = x + 'c' %}{{ x }}",
    "{%- if messages[0].role == 'system' -%}{%- set sys = messages[0].content -%}{%- set rest = messages[1:] -%}{%- endif -%}{{ sys }}|{{ rest | length }}",
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' }}\n{{ (m.content or '') | trim }}{{ '<|end|>\n' }}{% endfor %}",
    "{% for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + (m.content if m.content else '') + '<|im_end|>' + '\\n' -}}{% endfor %}",
    "{{ messages | map(attribute='content') | select('string') | map('trim') | join(' / ') }}",
    "{% set ids = namespace(list=[]) %}{% for u in users %}{% set ids.list = ids.list + [u.name] %}{% endfor %}{{ ids.list }}",
    "{% for u in users %}{{ u.tags | default([]) | length }}{% endfor %}",
    "{{ users[0] | items | list | length }}{% for k, v in users[0] | items %}{{ k }};{% endfor %}",
    "{% for k, v in users[1] | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for c in [1, 2, 3] %}{{ 'first' if loop.first else ('last' if loop.last else 'mid') }} {% endfor %}",
    "{% set x = [] %}{% for i in range(3) %}{% set x = x + [i] %}{% endfor %}{{ x }}",
    "{{ [1, 2, 3] | map('string') | map('upper') | join }}",
    "{% macro a() %}{% for x in xs %}{{ x }}{% if x == 1 %}{% break %}{% endif %}{% endfor %}{% endmacro %}{{ a() }}",
    "{% for x in xs %}{% filter upper %}a{% if x == 1 %}{% continue %}{% endif %}b{% endfilter %}{% endfor %}",
    "{% for x in xs %}{% if x == 3 %}{% set found = true %}{% endif %}{% endfor %}{{ found is defined }}",
    "{% if t %}{% for x in [1] %}{% set q = x %}{% endfor %}{% set r = 1 %}{% endif %}{{ q is defined }}{{ r }}",
    "{% macro m() %}{% set inner = 1 %}{{ inner }}{% endmacro %}{{ m() }}{{ inner is defined }}",
    "{% set f = 'a{}b{}'.format %}{{ f(1, 2) }}",
    "{% set up = s.upper %}{{ up() }}",
    "{{ [s.upper, s.lower][1]() }}",
    "{{ d.get('a').get('k')[0] }}",
    "{{ '{:>{}}'.format('x', 5) }}",
    "{% set a = {'x': 1} %}{% set b = dict(a, y=2) %}{{ b }}{{ a }}",
    "{{ {**d} }}",
    "{{ [*xs] }}",
    "{{ n := 5 }}",
    "{{ 1 <> 2 }}",
    "{{ n++ }}",
    "{{ 1 if 2 }}",
    "{{ 'a'.b.c }}",
    "{{ messages[99].role }}",
    "{{ messages[99] }}|",
    "{{ messages['x'] is defined }}{{ messages.x is defined }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% from 'x' import y %}",
    "{% do 1 %}",
]

EXTRA = {"tree": [{"v": 1, "c": [{"v": 2, "c": [{"v": 3}]}, {"v": 4}]}, {"v": 5}]}
NOW = datetime.datetime(2024, 7, 9, 13, 5, 6)


class Generation(Extension):
    """Hugging Face's generation tag, which prints the text inside it."""

    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_pass_through")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(lineno)

    def _pass_through(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(env, template):
    case = {"template": template}
    try:
        case["target"] = env.from_string(template).render(**CONTEXT, **EXTRA)
    except Exception as error:  # any error of jinja2 or Python is the expected result
        case["error"] = type(error).__name__
        case["message"] = str(error)
    return case


def main():
    env = environment()
    cases = [render(env, "{{ " + text + " }}") for text in EXPRESSIONS]
    unexpected = [case for case in cases if "error" in case]
    failing = [render(env, "{{ " + text + " }}") for text in FAILING]
    unexpected += [case for case in failing if "target" in case]
    for case in unexpected:
        print("not as listed:", case)
    cases += failing + [render(env, text) for text in dict.fromkeys(TEMPLATES)]
    with open(pathlib.Path(__file__).parent / "jinja.json", "w", encoding="utf-8") as out:
        out.write('{"now": "%s",\n' % NOW.isoformat())
        out.write('"context": %s,\n"cases": [\n' % json.dumps({**CONTEXT, **EXTRA}, ensure_ascii=False))
        out.write(",\n".join(json.dumps(case, ensure_ascii=False) for case in cases))
        out.write("\n]}\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
