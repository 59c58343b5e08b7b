"""Small word lists of general English, and the way a word is reduced before two are compared.

Lists hold only what measurement on labelled question pairs showed to pay. They decide nothing on their own.
"""

from collections.abc import Iterable
from functools import lru_cache


def wordset(text: str) -> frozenset[str]:
    """The blank-separated words of a list."""
    return frozenset(text.split())


# Words that carry no content of their own; a difference in them alone never parts two questions. Question
# words, negations and direction words have checks of their own.
STOP = wordset(
    """
    a an the this that these those some any such is are am was were be been being do does did done doing
    have has had having i you he she it we they me him us them my your his her its our their mine yours
    one ones someone somebody anyone anybody people person persons human to of in on at for by with from
    as and or so if then than there here what which who whom whose how why when where can could should
    would will shall may might must ought get gets got getting just really very actually ever also too
    about into much many lot lots way ways thing things please tell let know like want need s t ve re ll
    d m o vs versus etc e.g i.e kind kinds sort sorts type types various certain particular exactly
    simply basically generally usually quite rather still even yet already own both each every all whole
    etc everyone everybody anything something give gives show explain describe help wanna gonna during
    between among within while because since though
    """
)

# Words that shade a question without changing what is asked, so that one side alone may have them.
LIGHT = wordset(
    """
    good best great well easy easily easiest quick quickly fast fastest effective effectively
    efficiently proper properly correct true truly real possible possibly able mean meant meaning feel
    think thought opinion believe consider considered become happen find take make use used using see
    look start work exist come say learn choose suggest recommend list example main important basic well
    most more new main common general current currently now nowadays today world life start time accord
    based through after different other simple actual name permanently permanent overall exact specific
    specifically interesting future experience read buy watch far ask answer question quora stay myself
    yourself oneself himself themselves order made always moment realistically consistently successfully
    suddenly extra absolutely available famous once keep back yes seen found given ideal ideally present
    instead deal handle proper certain complete completely fully totally personally professional
    professionally amazing awesome reason cause main method step tip process prepare advice idea little
    bit few lot go going
    """
)

CONTRACTIONS: dict[str, tuple[str, ...]] = {
    "can't": ("can", "not"), "won't": ("will", "not"), "shan't": ("shall", "not"), "cannot": ("can", "not"),
    "ain't": ("is", "not"), "i'm": ("i", "am"), "let's": ("let", "us"), "dont": ("do", "not"),
    "doesnt": ("does", "not"), "didnt": ("did", "not"), "cant": ("can", "not"), "isnt": ("is", "not"),
    "wont": ("will", "not"), "arent": ("are", "not"), "couldnt": ("could", "not"), "havent": ("have", "not"),
    "whats": ("what", "is"), "hows": ("how", "is"), "im": ("i", "am"), "ive": ("i", "have"),
    "what's": ("what", "is"), "how's": ("how", "is"), "who's": ("who", "is"), "where's": ("where", "is"),
    "it's": ("it", "is"), "that's": ("that", "is"), "there's": ("there", "is"), "he's": ("he", "is"),
    "she's": ("she", "is"), "why's": ("why", "is"), "when's": ("when", "is"), "youtube": ("youtube",),
}  # fmt: skip

# One line, one meaning. The first word stands for all.
_SYNONYMS = """
1 one
2 two
3 three
4 four
5 five
6 six
7 seven
8 eight
9 nine
10 ten
best good top greatest great
make earn create build making made makes made
website site websites sites
film movie movies films
photo picture pic image photograph
phone mobile smartphone cellphone
increase improve boost enhance expand develop improvement
big large huge
intelligent smart clever
fast quick rapid quickly
affect effect impact influence consequence
favorite favourite fav
men man guy guys males
women woman lady ladies
girl girls
kid child children kids
boy boys
college university
difference different differ distinguish
advantage benefit pro pros merit
disadvantage drawback con cons demerit
india indian indians
america usa us american americans u.s u.s.a
uk britain british england
china chinese
germany german germans
japan japanese
france french
russia russian russians
pakistan pakistani pakistanis
stop quit
reduce lose
remove delete
learn study understand
calculate determine compute calculated
begin start
buy purchase
film movie
job career
salary pay paid income
job work
math maths mathematics
fb facebook
laptop notebook
internet online web
important significance importance significant
find locate
doctor physician
car automobile
child kid
film movie
repair fix
avoid overcome prevent
conflict issue dispute
purpose goal aim
dress wear
professor teacher
speak talk
book novel
genuine legitimate legit
attractive beautiful pretty
home house
stupid dumb stupidest dumbest
scary scariest creepy creepiest
keep maintain
weird strange weirdest strangest craziest crazy
enjoy like
hate dislike
funny funniest hilarious
motivate motivation motivated
cultural culture
educational education
seen see saw
view opinion
hack hacking hacked
choose select pick
require need requirement
solve solution
speed pace
error mistake
mean meaning meant
disease illness
rid eliminate
dictionary dict
database db
repository repo
configuration config
documentation docs
javascript js
typescript ts
kubernetes k8s
postgresql postgres
regex regexp
directory folder
join enter
reason cause
occur happen
begin start
world earth
life live living lives lived
die death dying dead died
win won winning
write wrote written writing
buy bought
think thought
travel visit go
teach teaching taught
feel felt feeling
weight
rupee rs inr rupees
dollar usd dollars
ban banning banned demonetization demonetisation demonetise
currency note notes
trump
sex intercourse
girlfriend gf
boyfriend bf
program code coding programming
application app apps
pc computer computers
tv television
pregnant pregnancy
marry marriage married
angry anger
hair
"""


def _suffix(word: str) -> str:
    """English inflection cut off; not a word any more, only a key."""
    if len(word) < 4 or not word.isalpha():
        return word
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ied", "y"), ("ed", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)] + rest
            break
    if word.endswith("ly") and len(word) > 5:
        word = word[:-2]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    return "i".join((word[:-1], "")) if word.endswith("y") and len(word) > 3 else word


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The word's key without inflection: "running", "runs", "run" → run."""
    return _suffix(word)


def _classes() -> dict[str, str]:
    table: dict[str, str] = {}
    for line in _SYNONYMS.strip().splitlines():
        head, *others = line.split()
        root = table.get(stem(head), stem(head))
        for word in (head, *others):
            table.setdefault(stem(word), root)
    return table


_CLASS = _classes()


@lru_cache(maxsize=1 << 16)
def key(word: str) -> str:
    """The word's class: its stem, or the stem that stands for its synonyms."""
    root = stem(word)
    return _CLASS.get(root, root)


LIGHT_KEYS = frozenset(map(key, LIGHT))


def canonical(words: Iterable[str]) -> list[str]:
    """Content words as classes, in order."""
    return [key(word) for word in words]
