"""An emulated vLLM: the same HTTP surface, with the timing of a GPU that is not there.

- ``cli``        ``marlin emulate``: options in, a running server out
- ``settings``   what a server is started with
- ``server``     routes, headers, start and shutdown; the only module that opens sockets
- ``gate``       what every request passes: API key, faults, counters
- ``generate``   a request for text, from validation to the last byte, for the four protocols
- ``protocols``  what each protocol reads and writes: completions, chat, responses, messages
- ``pooling``    embeddings, scores, ranks and tokens: the requests that generate nothing
- ``batching``   continuous batching as a pure state machine
- ``engine``     the state machine driven by the clock, and the streams that wait on it
- ``text``       words, token counts and tokenizing
- ``faults``     switches that break the server on purpose
- ``telemetry``  counters and histograms, and their Prometheus text
- ``families``   the names, labels and buckets of vLLM's metrics

docs/reference/emulator.md says how it differs from vLLM.
"""
