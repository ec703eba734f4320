"""A server over a tiny model that speaks as vLLM, SGLang, llama.cpp or others, well or badly."""

import json
import threading
import time
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from helpers import VOCABULARY, tiny

BLOCK = 4  # tokens, of the prefix cache


@cache
def model():
    return tiny("llama")


class Tokenizer:
    """Letters by their number in Unicode."""

    bos_token_id = 0

    def get_vocab(self):
        return {str(i): i for i in range(VOCABULARY)}

    def __len__(self):
        return VOCABULARY

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [0] * add_special_tokens + [ord(x) % VOCABULARY for x in text]}


class Stub:
    """The model "tiny", served as `kind` does it, with a `fault`; counts what it is `asked`.

    `fault` is a word that `answer` knows; or a function of the number of the request, which gives
    an HTTP status, "closed", "cut" or "late", or None.
    """

    def __init__(self, kind="vllm", fault="", noise=True, scale_out=False):
        self.kind, self.fault, self.noise, self.scale_out = kind, fault, noise, scale_out
        self.model, self.asked, self.seen, self.lock = model(), 0, set(), threading.Lock()

    def log_softmax(self, prompt):
        with self.lock, torch.inference_mode():
            return self.model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)

    def told(self, prompt):
        """What the model says of the tokens of a prompt: None, {id: log q}, …"""
        logits, out = self.log_softmax(prompt), [None]
        if self.fault == "hot":
            logits = (logits / 2).log_softmax(-1)
        for row, token in zip(logits, prompt[1:], strict=False):
            name = int(row.argmax()) if self.fault == "likeliest" else token
            name = (token + 1) % VOCABULARY if self.fault == "other ids" else name
            x = float(row[name])
            x = {"nan": float("nan"), "clamped": -9999.0, "positive": 0.5}.get(self.fault, x)
            out.append({name: x})
        return out[1:] if self.fault == "drops the first" else out

    def top(self, prompt, k):
        found = self.log_softmax(prompt)[-1].topk(0 if self.fault == "predicts nothing" else k)
        return dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    def changed(self, prompt):
        """The prompt as it is read."""
        changes = {"trims": prompt[-8:], "adds BOS": [0, *prompt], "template": [5, *prompt, 6]}
        return changes.get(self.fault, prompt)

    def cached(self, prompt):
        """Tokens whose whole blocks were read before; all but the last at most."""
        blocks = [tuple(prompt[:end]) for end in range(BLOCK, len(prompt), BLOCK)]
        return max((len(block) for block in blocks if block in self.seen), default=0)

    def answer(self, path, body):
        if path == "/v1/models":
            about = {"id": "tiny", "owned_by": self.kind, "root": "/there", "max_model_len": 66}
            return {"data": [about]}
        if path in ("/version", "/props", "/get_model_info"):
            return {"version": "1", "total_slots": 2}
        if path == "/tokenize":
            shift = self.fault == "tokenizer"
            return {"tokens": [(ord(x) + shift) % VOCABULARY for x in body["prompt"]]}
        self.asked += 1
        if path == "/completion":
            return self.llamacpp(body)
        if path == "/generate":
            return self.sglang(body)
        if path == "/inference/v1/generate":
            return self.scaled_out(body["token_ids"]) if self.scale_out else 403
        prompt = self.changed(body["prompt"])
        self.remember(prompt)
        choice, usage = {}, {"prompt_tokens": len(prompt)}
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = entries(self.told(prompt))
        elif body.get("echo"):
            told = [e or {prompt[0]: None} for e in self.told(prompt)] + [{9: -1.0}]
            choice["logprobs"] = {"tokens": [f"token_id:{k}" for e in told for k in e]}
            choice["logprobs"]["token_logprobs"] = [x for e in told for x in e.values()]
        else:
            top = self.top(prompt, body["logprobs"])
            choice["logprobs"] = {"top_logprobs": [{f"token_id:{k}": x for k, x in top.items()}]}
        if self.fault == "tells nothing":
            choice = {"text": "of it"}
        return {"choices": [choice], "usage": usage}

    def remember(self, prompt):
        self.seen |= {tuple(prompt[:end]) for end in range(BLOCK, len(prompt) + 1, BLOCK)}

    def scaled_out(self, prompt):
        """With noise, or nothing, in place of what was cached, as two runners of vLLM have it."""
        cached, told = self.cached(prompt), self.told(prompt)
        noise = [{token: -1.0} for token in prompt[1 : cached + 1]] if self.noise else []
        told = [None, *noise, *told[cached + 1 :]]
        self.remember(prompt)
        usage = {"prompt_tokens": len(prompt), "prompt_tokens_details": {"cached_tokens": cached}}
        return {"prompt_logprobs": entries(told), "usage": usage}

    def sglang(self, body):
        prompt = self.changed(body["input_ids"])
        about = {"prompt_tokens": len(prompt), "cached_tokens": 0}
        if "logprob_start_len" in body:
            told = self.told(prompt)[body["logprob_start_len"] + 1 :]
            pairs = [[x, k, None] for e in told for k, x in e.items()]
            about["input_token_logprobs"] = [[None, prompt[0], None], *pairs]
        top = self.top(prompt, body.get("top_logprobs_num", 1))
        about["output_top_logprobs"] = [[[x, k, None] for k, x in top.items()]]
        return {"meta_info": about}

    def llamacpp(self, body):
        prompt, wanted = self.changed(body["prompt"]), body.get("grammar", "<[3]>").split("<[")[1:]
        wanted = [int(piece.split("]>")[0]) for piece in wanted]
        top = [{"id": k, "logprob": x} for k, x in self.top(prompt, body["n_probs"]).items()]
        told = self.told(prompt + wanted)[len(prompt) :]
        out = [{"id": k, "logprob": x, "top_logprobs": top} for e in told for k, x in e.items()]
        about = {"tokens_evaluated": len(prompt), "timings": {"cache_n": 0}}
        return about | {"completion_probabilities": out}


def entries(told):
    """As vLLM writes them."""
    return [entry and {k: {"logprob": x} for k, x in entry.items()} for entry in told]


@contextmanager
def serving(*given, **options):
    """A `Stub` at its `url`, while the `with` lasts."""
    stub = Stub(*given, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = stub.fault(stub.asked) if callable(stub.fault) and data else None
            if fault == "closed":
                stub.asked += 1
                return
            found = stub.answer(self.path, json.loads(data or "{}"))
            if fault == "late":
                time.sleep(0.7)
            status = next((x for x in (fault, found) if isinstance(x, int)), 200)
            content = json.dumps({"error": "no"} if status != 200 else found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Retry-After", "0")
            self.send_header("Location", getattr(stub, "location", ""))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # of a client that hung up
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
