"""A model on an OpenAI-compatible server (hosted, or vLLM or SGLang), with the engines' interface.

The server receives text and tokenises it with its own BOS.
"""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from checkpoint import KEYS
from engine import Engine

# waits 1, 2, 4, 8 and 16 seconds when the server is busy or cannot be reached
RETRIES = Retry(
    5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None, raise_on_status=False
)
TIMEOUT_SECONDS = 3600


class Endpoint(Engine):
    """base_url: up to and including /v1.  model: the server's name for it.  threads: requests at a time.

    tokenizer: turns prompts of token ids into text; not needed for prompts that are text.
    prefilled_tokens, generated_tokens: as far as the server reports them.
    The key is sent only to this server, and is in no result or message.
    """

    name = "openai"

    def __init__(self, base_url: str, model: str, api_key: str | None, tokenizer=None, threads: int = 4):
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname or address.query or "@" in address.netloc:
            raise ValueError("the server address must be like http://localhost:8000/v1; a key goes into OPENAI_API_KEY")
        self.base_url = base_url.rstrip("/")
        self.name_or_path = model
        self.api_key = (api_key or "").strip()
        self.tokenizer = tokenizer
        self.batch_size = threads
        self.paths = ["completions", "chat/completions"]  # of the API; after the first answer the one that it has
        self.model_info = dict.fromkeys(KEYS) | {"method": "hosted"}
        self.fingerprint = f"{model}@{self.base_url}"
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=threads, max_retries=RETRIES))
        self.session.auth = lambda request: request  # without it, an entry of ~/.netrc would replace the key
        if self.api_key:
            self.session.headers["Authorization"] = f"Bearer {self.api_key}"

    def generate(self, prompts: list, max_new_tokens: int, stop_strings=()) -> list[str]:
        """The answer to each prompt (text or token ids), at temperature 0. Raises ValueError if the server has none."""
        options = {"model": self.name_or_path, "max_tokens": max_new_tokens, "temperature": 0}
        if stop_strings:
            options["stop"] = list(stop_strings)
        with ThreadPoolExecutor(self.batch_size) as pool:
            replies = pool.map(lambda prompt: self.ask(prompt, options), prompts)
            return [self.read_answer(reply) for reply in replies]

    def to_text(self, prompt) -> str:
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt, skip_special_tokens=True)

    def ask(self, prompt, options: dict) -> dict:
        """The reply of /completions or, if the server only has chats, of /chat/completions to a user's message."""
        text = self.to_text(prompt)
        messages = [{"role": "user", "content": text}]
        inputs = {"completions": {"prompt": text}, "chat/completions": {"messages": messages}}
        for path in self.paths:
            status, reply = self.post(path, options | inputs[path])
            if status == 200:
                self.paths = [path]
                return reply
            if status not in (400, 404, 405):
                break
        raise ValueError(f"{self.base_url}/{path}: {status} {reply}")

    def post(self, path: str, body: dict) -> tuple:
        """(200, the JSON reply) or (another status, the server's message in one line)."""
        url = f"{self.base_url}/{path}"
        try:  # redirects are not followed: another host must not get the key
            response = self.session.post(url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False)
            if response.status_code == 200:
                return 200, response.json()
        except requests.RequestException as error:
            return 0, self.one_line(f"no answer ({error})")
        message = response.headers.get("Location", response.text)
        return response.status_code, self.one_line(message)

    def read_answer(self, reply) -> str:
        """The text of a reply, whose tokens are counted. Raises ValueError if it is not the JSON of an answer."""
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            usage = reply.get("usage") or {}
            self.prefilled_tokens += int(usage.get("prompt_tokens") or 0)
            self.generated_tokens += int(usage.get("completion_tokens") or 0)
            if not isinstance(text, str | None):
                raise TypeError("not a text")
        except (LookupError, TypeError, AttributeError, ValueError):
            message = f"{self.base_url}: the server sent no text of an answer: {self.one_line(reply)}"
            raise ValueError(message) from None
        return text or ""

    def one_line(self, message) -> str:
        """The beginning of a message, without the key."""
        text = str(message)
        if self.api_key:
            text = text.replace(self.api_key, "***")
        return " ".join(text.split())[:300]
