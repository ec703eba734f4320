"""A language model behind a server: log-likelihoods over HTTP, for what no machine here can hold.

Token ids are sent, never text, and log-probabilities of those ids come back, in one of four ways:

    vllm       /v1/completions with `prompt_logprobs`; where it was started with `--enable-scale-out
               --enable-prompt-tokens-details`, a past that it has in its cache is not read again
    sglang     /generate with `return_logprob`, after what is cached
    llamacpp   /completion with a grammar that only the wanted tokens fit, one by one: this server
               tells nothing of prompts, but of what it generates what the model says without it
    others     /v1/completions with `echo` and `logprobs`, if they name tokens by their ids

A way is trusted once the server, generating, predicts as much of some tokens; an answer, if it has
read as many tokens as were sent, and tells a log-probability of each. SGLang's was tried only as it
is documented. Of the embedded model on a CPU vLLM 0.32 in float32 said the same as `score` here to
1.7e-5 nats a token (7e-5 at most), in bfloat16 to 0.04 (0.004 too much on average); llama.cpp,
computing in 4 bits, to 0.08 (0.009 too little), which on three windows moved I_BP by 0.5 at most.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from operator import itemgetter
from types import SimpleNamespace

import numpy as np

from l2m.files import digest
from l2m.language_models.packing import continuations
from l2m.language_models.trust import TOLERANCE, UntrustedModel

SHARD = 16  # windows
LIKELIEST = 5  # next tokens that every server tells, and vLLM to anybody
MORE = 1e-3  # nats by which rounding may lift a log-probability over 0
CLAMPED = -9999  # what vLLM writes for −∞
UNLIKE = KeyError, IndexError, TypeError, AttributeError, ValueError  # of JSON with other parts
BROKEN = OSError, HTTPException, ValueError, RecursionError  # off, or of JSON that is cut, or odd
MOST = 1 << 28  # bytes of an answer
KEY = "L2M_SERVER_KEY"
SAMPLE = "The 1st café, naïve — “don’t!”\n\n\tx_1 += 3.14;  Ünïcödé 北京 🙂"
ABOUT = {"vllm": "/version", "llamacpp": "/props", "sglang": "/get_model_info"}
SAID = "version", "build_info", "model_path", "model_ftype"  # that tell one model from another
_ONE = {"max_tokens": 1, "temperature": 1}  # a token must be generated; none is used
_SGLANG = {"sampling_params": {"max_new_tokens": 1, "temperature": 1}, "return_logprob": True}
_PROMPT = _ONE | {"prompt_logprobs": 0}  # of the tokens themselves, and no likelier ones


class Refused(ValueError):
    """What a server does not do."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: a server's key is for that server."""

    def redirect_request(self, *_):
        return None


def _require_url(url: str) -> None:
    """ValueError unless a URL names a server; what may be a password in it is not shown."""
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or "@" in url or not (url.isprintable() and " " not in url):
        shown = "" if "@" in url else f", not {url[:100]!r}"
        cure = f"such as http://localhost:8000{shown}; a key goes into {KEY}"
        raise ValueError(f"a server is named by a URL, {cure}.")


class ServedModel:
    """A causal language model that a server at `url` knows by `name`; `score` takes it.

    `tokenizer` is the model's own (`load_tokenizer`). So many `requests` are sent at once, and each
    up to `attempts` times, waiting `pause` seconds, then twice as long, …, at most a minute. A
    server's key is read from the environment variable L2M_SERVER_KEY. `asked` counts the tokens
    sent, `cached` those of them that the server says it had not to compute.

    Raises ValueError if the server has no such model, or another tokenizer; RuntimeError if it does
    not answer; UntrustedModel, here or in `score`, if what it answers is no log-likelihood.
    """

    def __init__(self, url, name, tokenizer, *, requests=64, timeout=600.0, attempts=10, pause=0.5):
        self.url, self.timeout = url.rstrip("/").removesuffix("/v1"), timeout
        self.attempts, self.pause, self.slots = attempts, pause, {}
        self.asked, self.cached, self.lock = 0, 0, threading.Lock()
        self.opener = urllib.request.build_opener(_Stay)
        _require_url(url)
        try:
            self._learn(name, tokenizer, requests)
        except Refused:
            raise
        except UNLIKE as error:
            why = f"its answers have other parts ({type(error).__name__}: {error})"
            raise Refused(f"{self.url} is no server of language models: {why}") from error
        ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
        self._require_tokenizer(ids)
        self.reuses = self.kind == "vllm" and self._reuses(ids)

    def _learn(self, name, tokenizer, requests) -> None:
        """Ask which models there are, and what the server is."""
        models = self.ask("/v1/models")["data"]
        about = next((m for m in models if name in (m["id"], m.get("root"))), None)
        if about is None:
            served = ", ".join(m["id"] for m in models) or "nothing"
            cure = "name one of these, or start it with --served-model-name (llama.cpp: --alias)"
            raise Refused(f"{self.url} serves {served}, not {name}: {cure}")
        owner, self.name = about.get("owned_by"), about["id"]
        self.kind = owner if owner in ABOUT else "others"
        said = self.ask(ABOUT[owner]) if owner in ABOUT else {}
        self.requests = max(1, min(requests, int(said.get("total_slots", requests))))
        meta = about.get("meta") or {}
        self.identity = {"kind": self.kind, "name": self.name, "root": about.get("root")}
        self.identity |= {key: said[key] for key in SAID if key in said}
        self.identity["tokenizer"] = digest(sorted(tokenizer.get_vocab().items()))
        context = int(about.get("max_model_len") or meta.get("n_ctx") or 0)
        self.config = SimpleNamespace(
            bos_token_id=tokenizer.bos_token_id,
            vocab_size=int(meta.get("n_vocab") or len(tokenizer)),
            max_position_embeddings=context and context - 2,  # BOS, and a token to generate
            get_text_config=lambda: self.config,
        )

    def ask(self, path: str, body: dict | None = None) -> dict:
        """The server's answer; asked again while it is busy, away, or breaks off."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise Refused(f"{KEY} holds no key, but letters that none has: set it anew")
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        attempts, why = self.attempts if body else 2, ""
        for attempt in range(attempts):
            wait = self.pause * 2**attempt
            try:
                with self.opener.open(request, timeout=self.timeout) as answer:
                    found = json.loads(answer.read(MOST))
                if isinstance(found, dict):
                    return found
                why = f"{type(found).__name__}, not an object of JSON"
            except urllib.error.HTTPError as error:
                why = str(error)
                with suppress(OSError, HTTPException):
                    why += f" {error.read(500).decode(errors='replace')}"
                if error.code < 500 and error.code not in (408, 425, 429):
                    key = f" ({KEY} holds the server's key)" if error.code in (401, 403) else ""
                    raise Refused(f"{self.url}{path} refuses: {why}{key}") from None
                after = error.headers.get("Retry-After", "")
                wait = float(after) if after.isdecimal() else wait
            except BROKEN as error:
                why = str(error) or type(error).__name__
            if attempt + 1 < attempts:
                time.sleep(min(60, wait))
        cure = "see that the server runs, and run this again; what was scored is kept"
        raise RuntimeError(f"{self.url}{path} gives no answer ({why}): {cure}")

    def log_q(self, past, tokens) -> np.ndarray:
        """log q(token | past, tokens before it), (m,), fp64 nats; `past` starts with BOS.

        UntrustedModel if the answer is of other tokens, of fewer or more, or not finite.
        """
        past, tokens = np.asarray(past).tolist(), np.asarray(tokens).tolist()
        told, read, sent, cached = self._by(WAYS[self.kind], past, tokens)
        self.count(len(past) + len(tokens), cached if type(cached) is int else 0)
        if read != sent:
            cure = "serve the model without what trims prompts, or adds BOS or a template to them"
            raise UntrustedModel(f"{self.url} read {read} tokens where {sent} were sent: {cure}")
        if len(told) != len(tokens):
            said = f"{self.url} tells {len(told)} log-probabilities of {len(tokens)} tokens"
            cure = "take another server, or another version"
            raise UntrustedModel(f"{said}, so that they are not known to be theirs: {cure}")
        for at, (token, entry) in enumerate(zip(tokens, told, strict=True), len(past)):
            if token not in entry:
                said = f"tells nothing of token {at} (id {token}), but of {sorted(entry)[:3]}"
                cure = "it must score the ids it is sent, not the likeliest"
                raise UntrustedModel(f"{self.url} {said}: {cure}")
            if type(entry[token]) not in (int, float) or not CLAMPED < entry[token] <= MORE:
                said = f"says that log q of token {at} (id {token}) is {entry[token]}"
                cure = "serve the model in bfloat16 or float32"
                raise UntrustedModel(f"{self.url} {said}, not a finite number up to 0: {cure}")
        return np.array([e[token] for token, e in zip(tokens, told, strict=True)], np.float64)

    def count(self, asked: int, cached: int) -> None:
        """Add to the tokens sent, and to those that were cached."""
        with self.lock:
            self.asked, self.cached = self.asked + asked, self.cached + cached

    def window(self, window, others, splits, ratio, bos, warm=()) -> dict:
        """Log-likelihoods of a window (T,), and of partners (k, T): as `packed`, each of (m,)."""
        out, rows = {("joint",): self.log_q([bos], window)}, [window, *others]
        every = [*continuations(len(window), splits, ratio, len(others), warm)]
        every.sort(key=itemgetter(2), reverse=True)  # each past is part of the one before: cached
        for name, part, past, which in every:
            out[name] = self.log_q([bos, *window[:past]], rows[which][part])
        return out

    def fill(self, shards, windows, partners, splits, ratio, bos, warm, check, progress) -> None:
        """Score the windows (n, T) that `shards` misses; partners (k, n). Others as in `score`."""
        missing, n = shards.missing(), len(windows)
        if missing:
            for row in np.linspace(0, n - 1, min(check, n)).astype(int):
                x, y = windows[row, : splits[-1]], windows[row, splits[-1] :]
                other = windows[partners[0, row], splits[-1] :]
                pairs = [([bos], windows[row]), ([bos], y), ([bos, *x], other)]
                self.require_definition(pairs)
        pool = ThreadPoolExecutor(self.requests)
        with shards.bar(progress) as bar:
            rest, jobs = (splits, ratio, bos, warm), {}
            for number, rows in missing.items():
                each = ((windows[row], windows[partners[:, row]]) for row in rows)
                jobs[number] = [pool.submit(self.window, *pair, *rest) for pair in each]
            try:
                for number in list(jobs):
                    values = []
                    for job in jobs.pop(number):  # so that what is written is let go
                        values.append(job.result())
                        bar.update()
                    keys = values[0].keys()
                    shards.write(number, {key: np.stack([v[key] for v in values]) for key in keys})
            except BaseException as error:  # answers may take minutes: Ctrl-C does not wait
                pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
                raise
        pool.shutdown()

    def require_definition(self, pairs) -> None:
        """UntrustedModel unless log q of some tokens is what the server predicts next itself.

        Of each pair (past, tokens), the two likeliest tokens and others spread over it are compared
        with the next token's log-probability where the server generates one, after the same past.
        """
        off, allowed = [], []
        for past, tokens in pairs:
            past, log_q = list(map(int, past)), self.log_q(past, tokens)
            spread = np.linspace(0, len(tokens) - 1, min(len(tokens), 3)).astype(int)
            for at in {*spread.tolist(), *np.argsort(-log_q)[:2].tolist()}:
                table = self._by(_next, past + list(map(int, tokens[:at])))
                least, known = min(table.values(), default=-np.inf), table.get(int(tokens[at]))
                # of a token that is not among the likeliest
                over = np.maximum(0, log_q[at] - least)
                off.append(over if known is None else abs(known - log_q[at]))
                allowed.append((1 - log_q[at]) / 2)  # rounding moves single tokens, but not so far
        if not (np.mean(off) <= TOLERANCE["bfloat16"] and np.all(np.less_equal(off, allowed))):
            raise UntrustedModel(
                f"what {self.url} tells of a prompt is not what it predicts next (log q of a token "
                f"is off by {np.mean(off):.2g} nats, by up to {np.max(off):.2g}): serve the model "
                "without what changes probabilities, or take another server"
            )

    def _by(self, way, *given):
        """What a way makes of the server's answer; UntrustedModel if that has other parts."""
        try:
            return way(self, *given)
        except Refused:
            raise
        except UNLIKE as error:
            said = f"tells no log-probabilities of a prompt ({type(error).__name__}: {error})"
            cure = "take vLLM, SGLang or llama.cpp's server, of a version that does"
            raise UntrustedModel(f"{self.url} {said}: {cure}") from error

    def _require_tokenizer(self, ids) -> None:
        body = {"model": self.name, "prompt": SAMPLE, "add_special_tokens": False}
        try:
            found = self.ask("/tokenize", body | {"content": SAMPLE, "add_special": False})
        except (Refused, RuntimeError):
            return  # not every server tells
        if "tokens" in found and found["tokens"] != ids:
            problem = f"the tokenizer of {self.url} makes other ids of a sample than the one given"
            raise ValueError(f"{problem}: pass the tokenizer of the model that is served")

    def _reuses(self, ids) -> bool:
        """Whether this vLLM tells how much of a prompt was cached, when it may be."""
        try:
            found = self.ask("/inference/v1/generate", _scale_out(self, ids))
            return bool((found.get("usage") or {}).get("prompt_tokens_details"))
        except (*UNLIKE, RuntimeError):
            return False


def _scale_out(server, prompt):
    reading = {"skip_reading_prefix_cache": False, "detokenize": False}
    return {"model": server.name, "token_ids": prompt, "sampling_params": _PROMPT | reading}


def _cached(usage) -> int:
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


# Each way: entries {id: log q} of the tokens, prompt tokens read, sent, and of them cached.


def _vllm(server, past, tokens):
    prompt, found, cached = past + tokens, None, 0
    if server.reuses and len(past) > 1:
        found = server.ask("/inference/v1/generate", _scale_out(server, prompt))
        entries, cached = found["prompt_logprobs"], _cached(found["usage"])
        # of what was cached nothing is told, or noise: it must end before the last of the past
        if cached >= len(past):
            server.count(len(prompt), cached)
            found, cached = None, 0
    if found is None:
        body = {"model": server.name, "prompt": prompt, **_PROMPT}
        found = server.ask("/v1/completions", body)
        entries = found["choices"][0]["prompt_logprobs"]
    if entries[0] is None and len(entries) in (len(prompt), len(prompt) - cached):
        entries = entries[-len(tokens) :]
    told = [{int(k): v["logprob"] for k, v in (entry or {}).items()} for entry in entries]
    return told, found["usage"]["prompt_tokens"], len(prompt), cached


def _others(server, past, tokens):
    prompt = past + tokens
    body = {"model": server.name, "prompt": prompt, "echo": True, "logprobs": 1, **_ONE}
    found = server.ask("/v1/completions", body | {"return_tokens_as_token_ids": True})
    told = found["choices"][0]["logprobs"]
    values, ids = told["token_logprobs"][: len(prompt)], told["tokens"][: len(prompt)]
    entries = [{_id(name): x} for name, x in zip(ids, values, strict=True)]
    if values[0] is None and len(values) == len(prompt):
        entries = entries[len(past) :]
    return entries, found["usage"]["prompt_tokens"], len(prompt), _cached(found["usage"])


def _sglang(server, past, tokens):
    prompt, last = past + tokens, len(past) - 1
    found = server.ask("/generate", _SGLANG | {"input_ids": prompt, "logprob_start_len": last})
    about = found["meta_info"]
    entries = [{token: x} for x, token, *_ in about["input_token_logprobs"]][1:]
    return entries, about["prompt_tokens"], len(prompt), about.get("cached_tokens", 0)


def _llamacpp(server, past, tokens):
    body = {"prompt": past, "n_predict": len(tokens), "n_probs": 1, "temperature": 1}
    slots = server.slots  # each has a cache, of one window: that of the thread that is at it
    slot = slots.setdefault(threading.get_ident(), len(slots)) % server.requests
    body |= {"cache_prompt": True, "id_slot": slot, "samplers": []}
    body["grammar"] = "root ::= " + " ".join(f"<[{token}]>" for token in tokens)
    found = server.ask("/completion", body)
    entries = [{entry["id"]: entry["logprob"]} for entry in found["completion_probabilities"]]
    return entries, found["tokens_evaluated"], len(past), found["timings"]["cache_n"]


def _next(server, past) -> dict[int, float]:
    """The likeliest next tokens, by id, and their log q, where the server generates one."""
    if server.kind == "llamacpp":
        body = {"prompt": past, "n_predict": 1, "n_probs": LIKELIEST, "cache_prompt": False}
        [entry] = server.ask("/completion", body)["completion_probabilities"]
        pairs = [(top["id"], top["logprob"]) for top in entry["top_logprobs"]]
    elif server.kind == "sglang":
        body = _SGLANG | {"input_ids": past, "top_logprobs_num": LIKELIEST}
        about = server.ask("/generate", body)["meta_info"]
        pairs = [(token, x) for x, token, *_ in about["output_top_logprobs"][0]]
    else:
        body = {"model": server.name, "prompt": past, "logprobs": LIKELIEST, **_ONE}
        if server.kind == "vllm":
            body["cache_salt"] = os.urandom(16).hex()  # nothing is read from the cache
        found = server.ask("/v1/completions", body | {"return_tokens_as_token_ids": True})
        [table] = found["choices"][0]["logprobs"]["top_logprobs"]
        pairs = [(_id(name), x) for name, x in table.items()]
    return {int(token): float(x) for token, x in pairs}


def _id(name: str) -> int:
    """Of "token_id:17" 17."""
    return int(name.removeprefix("token_id:"))


WAYS = {"vllm": _vllm, "sglang": _sglang, "llamacpp": _llamacpp, "others": _others}
