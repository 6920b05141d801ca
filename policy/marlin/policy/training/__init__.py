"""What trains. The only place that may import torch (import-linter holds it); nothing outside imports this folder.

- ``neural_predictor``  the small network that the paper compares its workload predictor with
"""
