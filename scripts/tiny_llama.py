"""Makes a language model so small that vLLM serves it on two CPU cores in a minute: for contract tests only.

    tiny_llama.py FOLDER

Writes a tokenizer (byte-level BPE, trained on a few sentences here, so nothing is downloaded), a chat template and the
configuration of a two-layer Llama. There are no weights: vLLM makes random ones with ``--load-format dummy``, the same
in every run. ``scripts/e2e_vllm.sh`` runs this inside the environment that holds vLLM.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]
from transformers import LlamaConfig, PreTrainedTokenizerFast  # type: ignore[import-not-found]

CONTEXT_TOKENS: Final = 4096

ROLES: Final = ("system", "user", "assistant", "tool")

SENTENCES: Final = (
    "Rivers carry cool water past the quiet turbines of the valley.",
    "At noon the sun is strong and the grid runs on clean power.",
    "Every prompt becomes a row of tokens, and every token takes its turn.",
    "Count with me: 0 1 2 3 4 5 6 7 8 9 10.",
)

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|{{ message.role }}|>{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content or [] %}{{ part.text }}{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be encoded, and a few words are one token."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(list(SENTENCES) * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",  # noqa: S106  a token of text
        eos_token="</s>",  # noqa: S106  a token of text
        unk_token="<unk>",  # noqa: S106  a token of text
        pad_token="</s>",  # noqa: S106  a token of text
        model_max_length=CONTEXT_TOKENS,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Two layers of width 64. The vocabulary is exactly the tokenizer's: an id beyond it would have no text."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        dtype="float32",
    )


def main(arguments: list[str]) -> int:
    """Writes the model into the folder given; returns the exit code."""
    if len(arguments) != 1:
        print("usage: tiny_llama.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_config(tokenizer).save_pretrained(folder)
    print(f"{folder}: vocabulary of {len(tokenizer)} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
