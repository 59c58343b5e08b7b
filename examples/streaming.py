"""Streaming through the gateway: the first time live from the engine, the second time from memory.

python examples/streaming.py [base URL]
"""

import sys
import time

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1", api_key="demo")
model = client.models.list().data[0].id

for attempt in ("live", "again"):
    started, first = time.perf_counter(), None
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the largest planet of the solar system?"}],
        temperature=0,
        max_tokens=48,
        stop=["\n"],
        stream=True,
        stream_options={"include_usage": True},
    )
    print(f"{attempt}: ", end="")
    for chunk in stream:
        first = first or time.perf_counter() - started
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
        if chunk.usage:
            print(f"   ({chunk.usage.total_tokens} tokens, first byte after {first * 1000:.1f} ms)")
    time.sleep(0.3)
