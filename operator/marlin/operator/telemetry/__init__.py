"""What the operator tells of itself and of its decisions, for Prometheus.

- ``catalogue``  every metric: name, kind, labels, what it means; the reference page is made of it
- ``ledger``     what adds up over rounds: decisions, vetoes, how long they took
- ``levels``     what is so now, read out of the last round
"""
