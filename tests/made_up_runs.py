"""Records as runs leave them, and a row of the paper's table, with numbers that are made up."""


def a_run(seed=0, **changed):
    settings = {"network": "2C2F", "dataset": "mnist"}
    record = {
        "seed": seed,
        "epochs": 8,
        "settings": settings,
        "test_accuracy": 0.98,
        "test_vra": 0.88,
        "device": "one",
        "threads": 1,
    }
    return record | {"seconds_per_epoch": 2.5, "peak_memory_per_instance": 3.2e6} | changed


ROW = {
    "recipe": "mnist-0.3", "benchmark": "MNIST", "network": "2C2F", "epsilon": "0.3", "gloro": [99.0, 97.8, 95.7],
    "standard": [99.2, 96.9, 0.0], "kw": [98.9, None, 94.0], "gloro_cost": [0.9, 500, 0.7], "kw_cost": [66.9, 100, 20.2],
    "early_stopped": ["kw"],
}  # fmt: skip


def figures(vra, accuracy=0.99, **more):
    return a_run(test_vra=vra, test_accuracy=accuracy, validation_vra=vra - 0.01) | more


def varied(variant, vra, accuracy=0.9):
    return {"variant": variant, "validation_vra": vra, "validation_accuracy": accuracy, "device": "one", "threads": 1}


ABLATIONS = {
    "base": {"epochs": 10},
    "runs": [
        varied("base", 0.48),
        varied("power iterations: 5 a step", 0.54),
        varied("base", 0.50, 0.8),
        varied("sphere: none, Muon on plain weights", 0.505, 0.7),
        varied("activation: ReLU", 0.371),
    ],
    "heads": {
        "settings": {"steps": 200, "train_epsilon": 1.65},
        "runs": [
            {"q": None, "clean_weight": None, "validation_vra": 0.603, "validation_accuracy": 0.952},
            {"q": 0.9, "clean_weight": 0.1, "validation_vra": 0.612, "validation_accuracy": 0.94},
        ],
    },
}
