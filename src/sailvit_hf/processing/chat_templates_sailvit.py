# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Chat templates with pictures and marked answers, in the prompt format that a language model was trained with."""

import json
import re
from collections.abc import Sequence
from typing import Any

# Special tokens of SAIL-VL2's tokenizer, which every language model gets that lacks them.
IMAGE_TOKEN, IMAGE_START_TOKEN, IMAGE_END_TOKEN = "<IMG_CONTEXT>", "<img>", "</img>"
TURN_START_TOKEN, TURN_END_TOKEN = "<|im_start|>", "<|im_end|>"

# What is written with a template to find out which format it is: turns with white space around, empty answers and
# reasoning. The second value says whether the prompt for an answer follows.
_PROBES: tuple[tuple[list[dict[str, str]], bool], ...] = (
    ([{"role": "user", "content": "a"}], True),
    (
        [
            {"role": "system", "content": " s "},
            {"role": "user", "content": "\na "},
            {"role": "assistant", "content": "\n b "},
            {"role": "user", "content": "c"},
        ],
        True,
    ),
    (
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "<think>\nx\n</think>\n\nb"},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "<think>\ny\n</think>\n\nd"},
        ],
        False,
    ),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}], False),
)
_DATES = re.compile(r"Cutting Knowledge Date: (.*)\nToday Date: (.*)\n\n")


def picture_text(image_token: str = IMAGE_TOKEN) -> str:
    """How a picture is written before its placeholder is repeated."""
    return f"{IMAGE_START_TOKEN}{image_token}{IMAGE_END_TOKEN}\n"


def _literal(text: str) -> str:
    """A text as Jinja reads it."""
    return json.dumps(text, ensure_ascii=False)


def _written(image_token: str) -> str:
    """A macro that writes a message's content, pictures included."""
    return (
        "{%- macro written(content) -%}"
        "{%- if content is string -%}{{- content -}}"
        "{%- else -%}{%- for part in content -%}"
        "{%- if part is string -%}{{- part -}}"
        "{%- elif part['type'] == 'image' or part['type'] == 'image_url' -%}"
        "{{- " + _literal(picture_text(image_token)) + " -}}"
        "{%- elif part['text'] is string -%}{{- part['text'] -}}"
        "{%- else -%}{{- raise_exception('A part of type ' + part['type'] + ' cannot be written.') -}}"
        "{%- endif -%}{%- endfor -%}{%- endif -%}"
        "{%- endmacro -%}"
    )


# Qwen 3: the reasoning of answers before the last question is left out, the last answer always has some, even empty.
_LAST_QUESTION = (
    "{%- set ns = namespace(last=messages|length - 1, open=true) -%}"
    "{%- for message in messages[::-1] -%}"
    "{%- set content = written(message['content']) -%}"
    "{%- if ns.open and message['role'] == 'user' and not (content.startswith('<tool_response>')"
    " and content.endswith('</tool_response>')) -%}"
    "{%- set ns.open = false -%}{%- set ns.last = messages|length - 1 - loop.index0 -%}"
    "{%- endif -%}{%- endfor -%}"
)
_REASONED = (
    "{%- set content = written(message['content']) -%}{%- set reasoning = '' -%}"
    "{%- if message['reasoning_content'] is string -%}{%- set reasoning = message['reasoning_content'] -%}"
    "{%- elif '</think>' in content -%}"
    "{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}"
    "{%- endif -%}"
    "{%- if loop.index0 > ns.last and (loop.last or reasoning) -%}"
    "{%- set content = '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -%}"
    "{%- endif -%}"
)
_NO_THINKING = (
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}"
    "{%- endif -%}"
)


def chatml_template(
    default: str = "",
    separator: str = "\n",
    bos: bool = False,
    thinking: bool = False,
    image_token: str = IMAGE_TOKEN,
) -> str:
    """ChatML: our default, SmolLM's, Qwen's, InternLM's and SAIL-VL2's.

    Args:
        default: What comes first when a chat has no system message of its own, as text.
        separator: What stands between the turns.
        bos: Whether a text begins with the tokenizer's own first token.
        thinking: Whether answers hold reasoning, as Qwen 3's.
    """
    content = "content" if thinking else "written(message['content'])"
    end = _literal(TURN_END_TOKEN)
    return (
        _written(image_token)
        + (_LAST_QUESTION if thinking else "")
        + ("{{- bos_token -}}" if bos else "")
        + "{%- for message in messages -%}"
        + ("{%- if loop.first and message['role'] != 'system' -%}{{- " + _literal(default) + " -}}{%- endif -%}")
        * bool(default)
        + "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
        + "{%- if message['role'] == 'assistant' -%}"
        + (_REASONED if thinking else "")
        + "{%- generation -%}{{- " + content + " + " + end + " -}}{%- endgeneration -%}"
        + "{%- else -%}{{- written(message['content']) + " + end + " -}}{%- endif -%}"
        + ("{{- " + _literal(separator) + " -}}") * bool(separator)
        + "{%- endfor -%}"
        + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
        + (_NO_THINKING if thinking else "")
        + "{%- endif -%}"
    )  # fmt: skip


def llama3_template(
    default: str = "",
    dates: tuple[str, str | None] | None = None,
    bos: bool = True,
    image_token: str = IMAGE_TOKEN,
) -> str:
    """Llama 3's.

    Args:
        default: What comes first when a chat has no system message of its own, as text.
        dates: Llama 3.1 and later begin every chat with a system turn that tells these: until when the model knows,
            and today, None for the day on which a text is written. `date_string` is taken instead where it is given.
        bos: Whether a text begins with the tokenizer's own first token.
    """
    header = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    begin = "{%- set turns = messages -%}" + ("{{- bos_token -}}" if bos else "")
    if dates is not None:
        today = "strftime_now('%d %b %Y')" if dates[1] is None else _literal(dates[1])
        begin += (
            "{%- if not date_string is defined -%}{%- set date_string = " + today + " -%}{%- endif -%}"
            "{%- set system = '' -%}"
            "{%- if messages[0]['role'] == 'system' -%}"
            "{%- set system = written(messages[0]['content']) | trim -%}{%- set turns = messages[1:] -%}"
            "{%- endif -%}"
            "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: ' -}}"
            "{{- " + _literal(dates[0]) + " + '\\nToday Date: ' + date_string + '\\n\\n' + system + '<|eot_id|>' -}}"
        )
    elif default:
        begin += "{%- if messages[0]['role'] != 'system' -%}{{- " + _literal(default) + " -}}{%- endif -%}"
    turn = "{{- (written(message['content']) | trim) + '<|eot_id|>' -}}"
    return (
        _written(image_token)
        + begin
        + "{%- for message in turns -%}"
        + "{{- " + header + " -}}"
        + "{%- if message['role'] == 'assistant' -%}{%- generation -%}" + turn + "{%- endgeneration -%}"
        + "{%- else -%}" + turn + "{%- endif -%}"
        + "{%- endfor -%}"
        + "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
    )  # fmt: skip


def with_pictures(template: str, image_token: str = IMAGE_TOKEN) -> str:
    """Any template of a language model, which reads messages of text only, for messages with pictures."""
    return (
        _written(image_token)
        + "{%- set flat = namespace(messages=[]) -%}"
        + "{%- for message in messages -%}"
        + "{%- if message['content'] is defined -%}"
        + "{%- set flat.messages = flat.messages + [dict(message, content=written(message['content']))] -%}"
        + "{%- else -%}{%- set flat.messages = flat.messages + [message] -%}{%- endif -%}"
        + "{%- endfor -%}"
        + "{%- set messages = flat.messages -%}"
        + template
    )


CHAT_TEMPLATE = chatml_template()


def choose_template(tokenizer: Any, image_token: str = IMAGE_TOKEN) -> str:
    """A template with pictures for this tokenizer, that writes texts as the tokenizer's own does.

    Its own is taken if it knows pictures. Otherwise ours of the family (ChatML, Qwen 3, Llama 3) that writes the same
    texts; otherwise its own, with pictures put in its texts before. A tokenizer without a template gets Llama 3's if
    it has those tokens, and ChatML.

    Raises:
        ValueError: if a template writes otherwise once it knows pictures.
    """
    own = _own_template(tokenizer)
    if own is None:
        known = tokenizer.get_vocab()
        if "<|start_header_id|>" in known and "<|eot_id|>" in known:
            return llama3_template(bos=tokenizer.bos_token is not None, image_token=image_token)
        return chatml_template(image_token=image_token)
    if image_token in own:
        return own
    texts = _texts(tokenizer, own)
    sail_vl2 = "<|im_assistant|>" in own and "<|im_assistant|>" not in tokenizer.get_vocab()
    for candidate in _candidates(tokenizer, own, texts[0], image_token):
        found = _texts(tokenizer, candidate)
        # The published template of SAIL-VL2 marks turns after the first with tokens that its tokenizer does not have.
        if found[:1] == texts[:1] if sail_vl2 else found == texts:
            return candidate
    wrapped = with_pictures(own, image_token)
    if _texts(tokenizer, wrapped) != texts:
        raise ValueError(
            "The tokenizer's chat template cannot be given pictures; pass chat_template, one that writes a picture as "
            f"{picture_text(image_token)!r}."
        )
    return wrapped


def _own_template(tokenizer: Any) -> str | None:
    own = getattr(tokenizer, "chat_template", None)
    return own.get("default") if isinstance(own, dict) else own


def _texts(tokenizer: Any, template: str) -> list[str | None]:
    """What a template writes for the probes; None where it refuses one."""
    texts: list[str | None] = []
    for chat, asks in _PROBES:
        try:
            texts.append(
                tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=asks)
            )
        except Exception:  # a template may raise anything, on purpose or not
            texts.append(None)
    return texts


def _candidates(tokenizer: Any, own: str, text: str | None, image_token: str) -> Sequence[str]:
    """Our templates that could write `text`, the first probe, which has no system message."""
    text, bos = text or "", bool(tokenizer.bos_token) and (text or "").startswith(tokenizer.bos_token)
    text = text[len(tokenizer.bos_token) :] if bos else text
    turns = re.fullmatch(r"(.*)<\|im_start\|>user\na<\|im_end\|>(.*)<\|im_start\|>assistant\n", text, re.DOTALL)
    if turns:
        default, separator = turns.groups()
        return [
            chatml_template(default, separator, bos, thinking, image_token=image_token) for thinking in (False, True)
        ]
    before, found, _ = text.partition("<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>")
    if not found:
        return []
    dates = _DATES.search(before)
    if dates is None:
        return [llama3_template(before, bos=bos, image_token=image_token)]
    today = None if "strftime_now" in own else dates[2]
    return [llama3_template(dates=(dates[1], today), bos=bos, image_token=image_token)]


__all__ = [
    "CHAT_TEMPLATE",
    "IMAGE_END_TOKEN",
    "IMAGE_START_TOKEN",
    "IMAGE_TOKEN",
    "TURN_END_TOKEN",
    "TURN_START_TOKEN",
    "chatml_template",
    "choose_template",
    "llama3_template",
    "picture_text",
    "with_pictures",
]
