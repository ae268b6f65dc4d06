#!/usr/bin/env python3
"""Generates tests/server/tokenizer_sentencepiece.json: the ids that SentencePiece itself (PyPI's `sentencepiece`) gives to
the texts of the shared goldens, for three models. Run in a virtual environment from the project root:

    python tests/server/tokenizer_sentencepiece.py > tests/server/tokenizer_sentencepiece.json
"""
import json

import sentencepiece

SHARED = "../shared/data/"
MODELS = ["tokenizers/tinyllama", "models/stories260K", "models/stories3M"]


def main():
    texts = json.load(open(SHARED + "tokenizers/goldens.json"))["texts"]
    # Texts with strings of special tokens are left out: the server encodes them as tokens, the library as text.
    plain = [i for i, text in enumerate(texts)
             if not any(s in text for s in ("<s>", "</s>", "<unk>")) and len(text) < 200][::4]
    rows = []
    for model in MODELS:
        processor = sentencepiece.SentencePieceProcessor(model_file=SHARED + model + "/tokenizer.model")
        ids = {str(i): processor.encode(texts[i]) for i in plain}
        rows.append('"%s": %s' % (model, json.dumps(ids, separators=(",", ":"))))
    print("{" + ",\n".join(rows) + "}")


main()
