"""Flower's own strategies on given changes: JSON on standard input, the model after every round out."""
import json
import sys

import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy as flower

given = json.load(sys.stdin)
start = np.array(given["model"], dtype=np.float64)
OK = Status(Code.OK, "")


def made(name, p, first):
    initial = {"initial_parameters": ndarrays_to_parameters([first])}
    moments = {"eta": p.get("learningRate"), "tau": p.get("tau"), **initial}
    if name == "FedAvg":
        return flower.FedAvg()
    if name == "FedAvgM":
        return flower.FedAvgM(server_learning_rate=p["learningRate"], server_momentum=p["momentum"], **initial)
    if name == "FedAdagrad":
        return flower.FedAdagrad(**moments)
    if name == "FedAdam":
        return flower.FedAdam(beta_1=p["beta1"], beta_2=p["beta2"], **moments)
    if name == "FedYogi":
        return flower.FedYogi(beta_1=p["beta1"], beta_2=p["beta2"], **moments)
    if name == "Median":
        return flower.FedMedian()
    if name == "TrimmedMean":
        return flower.FedTrimmedAvg(beta=p["beta"])
    if name == "Krum":
        return flower.Krum(num_malicious_clients=int(p["malicious"]))
    raise ValueError(name)


out = {}
for name, parameters in given["strategies"].items():
    strategy, model, models = made(name, parameters, start), start, []
    for number, updates in enumerate(given["rounds"], 1):
        results = [
            (None, FitRes(OK, ndarrays_to_parameters([model + np.array(u["delta"])]), u["samples"], {}))
            for u in updates
        ]
        aggregated, _ = strategy.aggregate_fit(number, results, [])
        model = parameters_to_ndarrays(aggregated)[0].astype(np.float64)
        models.append(model.tolist())
    out[name] = models
print(json.dumps(out))
