"""The common part of the peers' workers: the loop over the lines on stdin, and random prompts."""
import json
import os
import random
import sys


def random_prompt(vocab, num_tokens, seed=None):
    """Returns a random prompt: a new one without a seed, and the same one for the same seed."""
    rng = random.Random(seed)
    return [rng.randrange(vocab) for _ in range(num_tokens)]


def all_of(received, wanted):
    """Checks that all tokens were received, because a system that drops work would look fast."""
    if received != wanted:
        sys.exit(f"{received} tokens came instead of {wanted}")
    return received


def answer_lines(load):
    """Answers the lines on stdin. load() returns (facts, run); run(verb, numbers) returns (tokens, seconds). Output that libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer):
        out.write(json.dumps(answer) + "\n")
        out.flush()

    facts, run = load()
    say({"ready": True, **facts})
    for line in sys.stdin:
        verb, *numbers = line.split()
        tokens, seconds = run(verb, [int(n) for n in numbers])
        say({"case": line.strip(), "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds})
