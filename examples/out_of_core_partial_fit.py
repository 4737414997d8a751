"""Training one chunk at a time, on data that is never completely in memory.

    python examples/out_of_core_partial_fit.py

Makes a file of 60,000 images on disk (the digits set, each image shifted by up to one
pixel and with a little noise). Then reads one chunk after the other and trains on it
with partial_fit. After each chunk it prints the accuracy on held-out images and the
memory of the whole process. At the end it stores the model and loads it again.
"""

import pickle
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cbp import BPClassifier

N_IMAGES = 60_000
CHUNK = 4_000
N_PASSES = 2


def write_images(path, X, y, random_state):
    """Write N_IMAGES distorted copies of rows of X to a file; return their labels."""
    rng = np.random.default_rng(random_state)
    file = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(N_IMAGES, 64)
    )
    labels = np.empty(N_IMAGES, dtype=y.dtype)
    for start in range(0, N_IMAGES, CHUNK):
        chosen = rng.integers(len(X), size=min(CHUNK, N_IMAGES - start))
        images = X[chosen].reshape(-1, 8, 8)
        for image in images:
            image[:] = np.roll(image, rng.integers(-1, 2, size=2), axis=(0, 1))
        images += rng.normal(scale=0.1, size=images.shape)
        file[start : start + len(chosen)] = images.reshape(-1, 64)
        labels[start : start + len(chosen)] = y[chosen]
    file.flush()
    return labels


def peak_memory():
    """The largest memory that this process has had so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def main():
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(
        X / 16, y, stratify=y, random_state=0
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npy")
        labels = write_images(path, X_train, y_train, random_state=0)
        print(f"{N_IMAGES} images on disk, {path.stat().st_size / 1e6:.0f} MB\n")

        # Chunks are float32 and stay float32: cbp computes in the type of X.
        model = BPClassifier(
            hidden_layer_sizes=(128, 64), batch_size=64, random_state=0
        )
        images = np.load(path, mmap_mode="r")
        print("  seen    accuracy  peak memory   images/s")
        for _ in range(N_PASSES):
            for start in range(0, N_IMAGES, CHUNK):
                rows = slice(start, start + CHUNK)
                begin = time.perf_counter()
                model.partial_fit(images[rows], labels[rows], classes=range(10))
                rate = CHUNK / (time.perf_counter() - begin)
                accuracy = model.score(X_test, y_test)
                print(
                    f"{model.t_:7d}   {accuracy:8.3f}   {peak_memory():7.0f} MB"
                    f"   {rate:8.0f}",
                    flush=True,
                )

        stored = pickle.dumps(model)
        again = pickle.loads(stored)
    assert (again.predict(X_test) == model.predict(X_test)).all()
    print(
        f"\nStored: {len(stored) / 1e3:.0f} kB, with the state of the optimizer. So"
        "\npartial_fit continues where it stopped, even in another process."
    )


if __name__ == "__main__":
    main()
