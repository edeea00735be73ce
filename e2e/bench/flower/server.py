"""Rounds of Flower without evaluation; the time at which each one's replies are added up goes to a file."""
import os
import time

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    def aggregate_train(self, server_round, replies):
        aggregated = super().aggregate_train(server_round, replies)
        with open(os.environ["SHOAL_TIMES"], "a") as file:
            file.write(f"{time.time()}\n")
        return aggregated


@app.main()
def main(grid: Grid, context: Context) -> None:
    first = ArrayRecord([np.full(int(context.run_config["size"]), 0.5, np.float32)])
    strategy = Timed(fraction_evaluate=0.0, min_available_nodes=2)
    strategy.start(grid=grid, initial_arrays=first, num_rounds=int(context.run_config["rounds"]))
