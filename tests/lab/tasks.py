"""The laboratory's tasks: documents, questions and answers that a program can check.

`make_sample(task, rng, difficulty=, context_tokens=, examples=, questions=)` makes one sample from a random.Random; the same seed gives the same
sample on every machine. A sample is a chat that ends with a user's message, and the only right answer to it. No function needs a tokenizer, because every
word of the language is one token of the laboratory's tokenizer: `count_tokens` counts words, which gives a few tokens too many.

task            what the model must do                                                  what makes it harder
recall          find a fact that a long document states once                            more facts that share its owner or its thing
two_hop         combine one fact from each of two documents                             more chains of facts
multi_document  find a fact in one of several documents, after a system text            more documents
in_context      infer the mapping from words to labels from examples                    more categories
transform       copy, reverse, sort or add                                              longer inputs
dialogue        recall facts from earlier turns of a dialogue                           more facts, and changes of facts
narrative       nothing: prose and talk about it (story_grammar.py), without answers    -
The domains, which only an adapter knows, are in domains.py.
"""
import dataclasses
import functools
import math
import re

import story_grammar
from words import CATEGORIES, FILLERS, LABELS, LETTERS, NAMES, PLACES, ROLES, THINGS, VALUES

TASKS = ["recall", "two_hop", "multi_document", "in_context", "transform", "dialogue"]
CONTEXTS = [512, 1024, 2048, 4000]
_CHAT_TOKENS = 40  # tokens of the chat template, the question and the answer


@dataclasses.dataclass
class Sample:
    messages: list  # messages {"role", "content"}; the last message is the user's
    answer: str


@functools.lru_cache(maxsize=1 << 16)
def count_tokens(text):
    return len(re.findall(r"\n+|'s|\w+|[^\w\s]", text))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def ask_all(before, asked):
    """Returns a chat that asks all questions about a text; all questions but the last have their answers in the chat."""
    messages = []
    for i, (question, answer) in enumerate(asked):
        messages += [user(before + question if i == 0 else question), assistant(answer)]
    return Sample(messages[:-1], asked[-1][1])


def spread(facts, num_tokens, rng):
    """Returns a text of about num_tokens with the facts in random order among filler sentences."""
    sentences, room = list(facts), num_tokens - sum(map(count_tokens, facts))
    while room > 8:
        sentences.append(rng.choice(FILLERS))
        room -= count_tokens(sentences[-1])
    rng.shuffle(sentences)
    return " ".join(sentences)


def recall(rng, difficulty, context_tokens, questions, **_):
    room = context_tokens - _CHAT_TOKENS - 18 * (questions - 1)
    num_facts = max(2, int([0.12, 0.3, 0.5, 0.7, 0.9][difficulty - 1] * room / 7))
    # Harder documents have fewer owners and things, so that more facts share an owner or a thing.
    share = [16, 6, 3, 2, 1.4][difficulty - 1]
    side = min(math.ceil(math.sqrt(num_facts * share)), len(NAMES))
    owners, things = rng.sample(NAMES, side), rng.sample(THINGS, min(len(THINGS), max(side, math.ceil(num_facts / side))))
    keys = rng.sample([(o, t) for o in owners for t in things], min(num_facts, len(owners) * len(things)))
    said = [(f"What is {o}'s {t} like?", f"{o}'s {t} is {rng.choice(VALUES)}.") for o, t in keys]
    openings = ["", "", "", "Everyone knows that ", "They say that ", "It is true that "]
    facts = [rng.choice(openings) + answer for _, answer in said]
    while len(facts) > 2 and sum(map(count_tokens, facts)) > room:
        facts.pop()
        said.pop()
    return ask_all(spread(facts, room, rng) + "\n", [rng.choice(said) for _ in range(questions)])


def two_hop(rng, difficulty, context_tokens, questions, **_):
    chains = [2, 4, 7, 11, 16][difficulty - 1]
    owners, places = rng.sample(NAMES, chains), [rng.choice(PLACES) for _ in range(chains)]
    kinds = rng.sample(THINGS, chains if difficulty < 3 else max(2, chains // 3))
    goods = rng.sample([(v, t) for v in rng.sample(VALUES, chains + 4) for t in kinds], chains)
    belongs = [f"The {v} {t} belongs to {o}." for (v, t), o in zip(goods, owners)]
    lives = [f"{o} lives in {p}." for o, p in zip(owners, places)]
    room = context_tokens - _CHAT_TOKENS - 12 - 28 * (questions - 1)
    room = min(room, max(sum(map(count_tokens, belongs + lives)) + 16, int(room * rng.uniform(0.3, 1))))
    spare = (room - sum(map(count_tokens, belongs + lives))) // 2
    texts = [spread(facts, sum(map(count_tokens, facts)) + spare, rng) for facts in (belongs, lives)]
    rng.shuffle(texts)
    said = [(f"Where does the owner of the {v} {t} live?", f"{b} {l}") for (v, t), b, l in zip(goods, belongs, lives)]
    before = "".join(f"Document {i + 1}: {text}\n" for i, text in enumerate(texts))
    return ask_all(before, [rng.choice(said) for _ in range(questions)])


def multi_document(rng, difficulty, context_tokens, questions, **_):
    num_documents = [2, 3, 4, 6, 8][difficulty - 1]
    room = (context_tokens - _CHAT_TOKENS - 20 - 20 * (questions - 1)) // num_documents
    documents, said = [], []
    for place in rng.sample(PLACES, num_documents):
        roles = rng.sample(ROLES, min(3, max(2, room // 16)))
        facts = [f"The {role} of {place} is {rng.choice(NAMES)}." for role in roles]
        said += [(f"Who is the {role} of {place}?", fact) for role, fact in zip(roles, facts)]
        documents.append(f"{place}. " + spread(facts, room - 10, rng))
    before = "".join(f"Document {i + 1}: {text}\n" for i, text in enumerate(documents))
    sample = ask_all(before, [rng.choice(said) for _ in range(questions)])
    sample.messages.insert(0, {"role": "system", "content": "Answer from the documents."})
    return sample


def in_context(rng, difficulty, examples, questions, **_):
    """Every example shows the label of its word's category. The question is about a word that no example has."""
    categories = rng.sample(list(CATEGORIES), [2, 2, 3, 3, 4][difficulty - 1])
    labels = dict(zip(categories, rng.sample(LABELS, len(categories))))
    words = {c: rng.sample(CATEGORIES[c], len(CATEGORIES[c])) for c in categories}
    asked = rng.choice(categories)
    shown = [asked] + [rng.choice(categories) for _ in range(examples - 1)] if examples else []
    rng.shuffle(shown)
    lines = [f"{words[c].pop()} > {labels[c]}" for c in shown]
    said = [(f"{words[asked].pop()} >", labels[asked])]
    for _ in range(questions - 1):  # an answer serves as an example for the next question
        asked = rng.choice([c for c in categories if c in shown and words[c]] or [asked])
        if not words[asked]:
            break
        said.append((f"{words[asked].pop()} >", labels[asked]))
    return ask_all("\n".join(["Learn the rule."] + lines) + "\n", said)


def transform(rng, difficulty, **_):
    kind = rng.choice(["Copy", "Reverse", "Sort", "Add"])
    if kind == "Add":
        digits = [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3)][difficulty - 1]
        a, b = (rng.randrange(10 ** d) for d in digits)
        return Sample([user(f"Add: {a} + {b}")], str(a + b))
    length = [3, 5, 7, 9, 12][difficulty - 1] - 2 * (kind == "Sort" and difficulty > 1)
    letters = rng.sample(LETTERS, length)
    done = {"Copy": letters, "Reverse": letters[::-1], "Sort": sorted(letters)}[kind]
    return Sample([user(f"{kind}: {' '.join(letters)}")], " ".join(done))


def dialogue(rng, difficulty, context_tokens, questions, **_):
    num_facts = [2, 4, 6, 9, 12][difficulty - 1]
    changes = int(num_facts * [0, 0, 0.2, 0.3, 0.4][difficulty - 1])
    things = rng.sample(THINGS, num_facts)
    steps = [(t, False) for t in things]
    for thing in rng.sample(things, changes):  # the change of a fact comes after its first statement
        steps.insert(rng.randrange(steps.index((thing, False)) + 1, len(steps) + 1), (thing, True))
    values, messages = {}, []
    for thing, again in steps:
        values[thing] = rng.choice([v for v in VALUES if v != values.get(thing)])
        text = f"My {thing} is {'now ' if again else ''}{values[thing]}."
        if difficulty > 3 and rng.random() < 0.3:
            text += f" {rng.choice(NAMES)}'s {rng.choice(things)} is {rng.choice(VALUES)}."
        if rng.random() < 0.3:
            text = rng.choice(FILLERS) + " " + text
        messages += [user(text), assistant(rng.choice(["I see.", "Good to know.", "I will remember that."]))]
    asked = [(f"What is my {t} like?", f"Your {t} is {values[t]}.") for t in (rng.choice(things) for _ in range(questions))]
    rest = ask_all("", asked)
    room = context_tokens - _CHAT_TOKENS - 8 * len(messages) - sum(count_tokens(m["content"]) for m in messages)
    while room > 40 and rng.random() < 0.7:  # small talk varies the distance between a fact and the question
        at = 2 * rng.randrange(len(messages) // 2 + 1)
        text = spread([], rng.randrange(10, 40), rng)
        messages[at:at] = [user(text), assistant("I see.")]
        room -= count_tokens(text) + 16
    return Sample(messages + rest.messages, rest.answer)


_MAKERS = {"recall": recall, "two_hop": two_hop, "multi_document": multi_document, "in_context": in_context, "transform": transform, "dialogue": dialogue}


def make_sample(task, rng, *, difficulty=1, context_tokens=512, examples=5, questions=1):
    """Makes one sample. difficulty: 1 to 5. context_tokens: upper bound of the tokens of chat and answer. examples: number of examples of in_context. questions:
    number of questions about the same text, of which all but the last have their answers in the chat; more than one is for training."""
    return _MAKERS[task](rng, difficulty=difficulty, context_tokens=context_tokens, examples=examples, questions=questions)


def render(messages):
    """Renders messages as ChatML, as the chat template does."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def make_narrative(rng):
    return story_grammar.make_document(rng)
