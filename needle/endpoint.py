"""A model behind an OpenAI-compatible server (hosted, or vLLM's and SGLang's), asked as the engines are.

The text of a prompt is sent, without special tokens: the server tokenises it again, with its own BOS.
"""

import http.client
import json
import time
import urllib.error
import urllib.request

from transformers import AutoTokenizer

WAITS = (1, 2, 4, 8, 16)  # seconds before another try when the server is busy or out of reach


class Endpoint:
    """base_url: up to and with /v1.  model: the name that the server knows.  tokenizer: folder or hub id with the
    tokenizer that counts the prompts' tokens. Raises ValueError if there is none."""

    name, attention, dtype, config, record, window, prefilled = "openai", None, None, None, None, None, 0

    def __init__(self, base_url: str, model: str, tokenizer: str, api_key: str | None, trust_remote_code: bool = False):
        self.base_url, self.model, self.api_key = base_url.rstrip("/"), model, api_key
        self.chat = None  # not known yet
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError) as reason:
            raise ValueError(f"no tokenizer in {tokenizer}: {str(reason).strip().splitlines()[0]}") from None

    def plan(self, prompts: list[list[int]], max_new_tokens: int, ranks: int = 1) -> list[list[int]]:
        """As the engines': common beginnings stand together, which a server's prefix cache uses."""
        order = sorted(range(len(prompts)), key=lambda i: prompts[i])
        return [order[len(order) * rank // ranks : len(order) * (rank + 1) // ranks] for rank in range(ranks)]

    def batches(self, order: list[int], prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        """One prompt at a time: each answer is recorded as it comes."""
        return [[i] for i in order]

    def generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
        """The text of each answer, at temperature 0. Raises ValueError, one line, on what waiting does not mend."""
        return [self.ask(self.tokenizer.decode(ids, skip_special_tokens=True), max_new_tokens) for ids in prompts]

    def ask(self, text: str, max_new_tokens: int) -> str:
        """By /completions, which leaves the text as it is; where a server has only chats, as a user's message."""
        request = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 0}
        if not self.chat:
            status, answer = self.post("completions", request | {"prompt": text})
            if status == 200:
                self.chat = False
                return answer["choices"][0]["text"]
            if self.chat is False or status not in (400, 404, 405):
                raise ValueError(f"{self.base_url}/completions: {status} {answer}")
        status, answer = self.post("chat/completions", request | {"messages": [{"role": "user", "content": text}]})
        if status != 200:
            raise ValueError(f"{self.base_url}/chat/completions: {status} {answer}")
        self.chat = True
        return answer["choices"][0]["message"]["content"] or ""

    def post(self, path: str, body: dict) -> tuple[int, dict | str]:
        """(200, the answer) or (another status, the server's words in one line)."""
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        for wait in (*WAITS, None):
            request = urllib.request.Request(f"{self.base_url}/{path}", json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=600) as response:
                    return 200, json.load(response)
            except urllib.error.HTTPError as reason:
                status, said = reason.code, " ".join(reason.read().decode(errors="replace").split())[:300]
                if status != 429 and status < 500:
                    return status, said
            except (OSError, ValueError, http.client.HTTPException) as reason:
                status, said = 0, f"no answer ({getattr(reason, 'reason', reason)})"
            if wait is not None:
                time.sleep(wait)
        return status, said
