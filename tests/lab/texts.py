"""The laboratory's tokenizer, and the packing of samples into rows of tokens for training."""
import os
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import domains
import tasks
from llama import write_json
from words import NAMES, PLACES, ROLES, THINGS, VALUES

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB_SIZE, CONTEXT = 3072, 4096
# Each digit is a token, and a word includes the blank before it.
SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def tokenizer_texts(seed, num):
    """The texts from which the tokenizer learns its words: texts of all tasks, prose and the words of the domains."""
    yield from NAMES * 60  # names without a blank before them, as at the start of answers
    for i in range(num):
        rng = random.Random(f"tokenizer {seed} {i}")
        task = rng.choice(tasks.TASKS + ["narrative"] * 4 + ["domain"])
        if task == "narrative":
            yield tasks.make_narrative(rng)
            continue
        if task == "domain":
            sample = domains.make_sample(rng.choice(domains.DOMAINS), rng, difficulty=rng.randint(1, 5))
        else:
            sample = tasks.make_sample(task, rng, difficulty=rng.randint(1, 5), context_tokens=256)
        yield tasks.render(sample.messages + [tasks.assistant(sample.answer)])


def learn_tokenizer(seed):
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator((t.replace("<|im_start|>", "").replace("<|im_end|>", "") for t in tokenizer_texts(seed, 20000)), trainer)
    return tokenizer


def write_tokenizer(folder, tokenizer):
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    added = {str(tokenizer.token_to_id(t)): dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True) for t in SPECIALS}
    write_json(os.path.join(folder, "tokenizer_config.json"), dict(
        tokenizer_class="PreTrainedTokenizerFast", model_max_length=CONTEXT, clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE,
        eos_token=SPECIALS[0], pad_token=SPECIALS[0], additional_special_tokens=SPECIALS[1:], added_tokens_decoder=added))


# Sentences of the tasks, each split into a start and an end that only an earlier statement determines.
DRILLS = [
    lambda rng: (f"{rng.choice(NAMES)}'s {rng.choice(THINGS)} is", rng.choice(VALUES)),
    lambda rng: (f"My {rng.choice(THINGS)} is", rng.choice(VALUES)),
    lambda rng: (f"The {rng.choice(VALUES)} {rng.choice(THINGS)} belongs to", rng.choice(NAMES)),
    lambda rng: (f"{rng.choice(NAMES)} lives in", rng.choice(PLACES)),
    lambda rng: (f"The {rng.choice(ROLES)} of {rng.choice(PLACES)} is", rng.choice(NAMES)),
]


class Packer:
    """Makes training rows, which have token ids and a loss weight for each token."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.end = tokenizer.token_to_id(SPECIALS[0])
        self.prose_weight = 0.3

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def chat(self, messages):
        """Returns ids and loss weights. Only tokens of the assistant have a weight above 0."""
        ids, weights = [], []
        for message in messages:
            answered = message["role"] == "assistant"
            head = self.encode(f"<|im_start|>{message['role']}\n")
            body = self.encode(message["content"] + "<|im_end|>")
            tail = self.encode("\n")
            ids += head + body + tail
            weights += [0.0] * len(head) + [float(answered)] * len(body) + [0.0] * len(tail)
        return ids, weights

    def sample(self, sample):
        return self.chat(sample.messages + [tasks.assistant(sample.answer)])

    def row(self, rng, length, mix):
        """Makes a row of length + 1 ids. `mix` is the share of each task."""
        ids, weights = [], []
        while length + 1 - len(ids) > 24:
            room, task = length + 1 - len(ids), rng.choices(list(mix), mix.values())[0]
            if task == "drill":
                more, more_weights = self.drill(rng, room - 1)
            elif task == "narrative":
                more = self.encode(tasks.make_narrative(rng))[:room - 1]
                more_weights = [self.prose_weight] * len(more)
            else:
                more, more_weights = self.fitting(task, rng, room - 1)
            ids += more + [self.end]
            weights += more_weights + [self.prose_weight if task == "narrative" else 0.0]
        pad = length + 1 - len(ids)
        return ids + [self.end] * pad, weights + [0.0] * pad

    def drill(self, rng, room):
        """Makes statements, followed by the same statements in another order, whose ends are scored. A drill has many facts to recall in few tokens, so the attention that
        all tasks need forms early."""
        make, facts = rng.choice(DRILLS), {}
        for _ in range(min(room, rng.choice([60, 120, 240, 480])) // 16):
            begin, end = make(rng)
            facts.setdefault(begin, f" {end}.")
        ids, weights = [], []
        for again in (False, True):
            order = list(facts.items())
            rng.shuffle(order)
            for begin, end in order:
                begin_ids, end_ids = self.encode((" " if ids else "") + begin), self.encode(end)
                ids += begin_ids + end_ids
                weights += [0.0] * len(begin_ids) + [float(again)] * len(end_ids)
        return ids[:room], weights[:room]

    def fitting(self, task, rng, room):
        """Makes a sample of at most `room` tokens; uses a short task if the requested task does not fit."""
        for attempt in range(6):
            if attempt >= 3 or room < 90:
                task = rng.choice(["transform", "in_context"])
            difficulty = rng.randint(1, 5 if attempt == 0 else 2)
            sample = tasks.make_sample(
                task, rng, difficulty=difficulty, context_tokens=room if rng.random() < 0.6 else rng.randint(min(90, room), room),
                examples=rng.choice([0, 1, 2, 3, 4, 5, 5, 6, 7]), questions=rng.randint(1, max(1, min(16, room // 40))))
            ids, weights = self.sample(sample)
            if len(ids) <= room:
                return ids, weights
        return [], []
