"""Makes the files beside it: `python make.py`, with NumPy, pandas, safetensors and Python's csv module.

Waves of three shapes with noise, drawn here: 36 sequences of 8 steps of 2 inputs, classes `saw`, `sine` and `square`.
"""

import csv
import gzip
import os

import numpy as np
import pandas
from safetensors.numpy import save_file

os.chdir(os.path.dirname(os.path.abspath(__file__)))
rng = np.random.default_rng(5)
names = np.array(["sine", "square", "saw"])
labels = np.arange(36) % 3
phase = rng.uniform(0, 2 * np.pi, 36)[:, None] + np.linspace(0, 4 * np.pi, 8)
wave = np.stack([np.sin(phase), np.sign(np.sin(phase)), phase / np.pi % 2 - 1])[labels, np.arange(36)]
x = np.stack([3 * wave, 50 + np.gradient(wave, axis=1)], axis=2) + rng.normal(0, 0.05, (36, 8, 2))
x = x.round(4)
y = names[labels]

np.savez("f64.npz", x=x, y=y)
np.savez_compressed("f32.npz", x=x.astype(np.float32), y=labels.astype(np.int64))
np.savez("f16.npz", x=x.astype(np.float16), y=labels.astype(np.uint8))
np.savez_compressed("big_endian_fortran.npz", x=np.asfortranarray(x.astype(">f4")), y=labels.astype(">i2"))
pixels = ((x - x.min((0, 1))) / (x.max((0, 1)) - x.min((0, 1))) * 255).astype(np.uint8)
np.savez_compressed("keras.npz", x_train=pixels[:24], y_train=labels[:24], x_test=pixels[24:], y_test=labels[24:])
os.makedirs("pair", exist_ok=True)
np.save("pair/x.npy", x.astype(np.float32))
np.save("pair/y.npy", labels.astype(np.int32) - 1)
save_file({"x": x.astype(np.float32), "labels": labels.astype(np.int64)}, "f32.safetensors")

with open("waves.csv", "w", newline="") as file:
    out = csv.writer(file)
    out.writerow([f"{name}{step}" for step in range(8) for name in ("value", "slope")] + ["label"])
    out.writerows([*row, label] for row, label in zip(x.reshape(36, 16).tolist(), y.tolist()))
with open("unlabelled.csv", "w", newline="") as file:
    csv.writer(file).writerows(x.reshape(36, 16).tolist())

# As the archive writes them: single precision, exponents, the class first.
os.makedirs("archive", exist_ok=True)
for part, rows in (("TRAIN", slice(0, 24)), ("TEST", slice(24, 36))):
    with open(f"archive/Waves_{part}.tsv", "w") as file:
        for label, row in zip(labels[rows] - 1, x[rows, :, 0]):
            file.write("\t".join([f"{label}", *(f"{value:.7e}" for value in row)]) + "\n")
    with open(f"Waves_{part}.ts", "w") as file:
        file.write("# Waves, made by make.py\n@problemName Waves\n@timeStamps false\n@missing false\n@univariate false\n")
        file.write("@dimensions 2\n@equalLength true\n@seriesLength 8\n@classLabel true saw sine square\n@data\n")
        for label, sequence in zip(y[rows], x[rows]):
            file.write(":".join(",".join(map(str, dim)) for dim in sequence.T.tolist()) + f":{label}\n")

# The same, each sequence cut to a length of its own; what follows is NaN in the arrays.
lengths = np.random.default_rng(6).integers(3, 9, 36)
padded = np.where(np.arange(8)[:, None] < lengths[:, None, None], x, np.nan)
np.savez("lengths.npz", x=padded, y=y, lengths=lengths)
os.makedirs("lengths_pair", exist_ok=True)
for name, array in (("x", padded.astype(np.float32)), ("y", labels.astype(np.int32)), ("lengths", lengths.astype(np.uint8))):
    for part, rows in (("train", slice(0, 24)), ("test", slice(24, 36))):
        with gzip.GzipFile(f"lengths_pair/{name}_{part}.npy.gz", "wb", mtime=0) as file:
            np.save(file, array[rows])
save_file({"x": padded.astype(np.float32), "labels": labels, "lengths": lengths}, "lengths.safetensors")
columns = [f"{name}{step}" for step in range(8) for name in ("value", "slope")]
table = pandas.DataFrame(padded.reshape(36, 16), columns=columns).assign(label=y)
table.to_csv("lengths.csv", index=False)
order, gz = ["label", *columns], {"method": "gzip", "mtime": 0}
table.to_csv("lengths_first.tsv.gz", index=False, header=False, sep="\t", columns=order, compression=gz)
os.makedirs("lengths_archive", exist_ok=True)
for part, rows in (("TRAIN", slice(0, 24)), ("TEST", slice(24, 36))):
    with open(f"lengths_archive/Waves_{part}.tsv", "w") as file:
        for label, row in zip(labels[rows], padded[rows, :, 0]):
            file.write("\t".join([f"{label}", *("NaN" if np.isnan(value) else f"{value:.7e}" for value in row)]) + "\n")
    with open(f"Lengths_{part}.ts", "w") as file:
        file.write("@problemName Lengths\n@timeStamps false\n@missing false\n@univariate false\n")
        file.write("@dimensions 2\n@equalLength false\n@classLabel true saw sine square\n@data\n")
        for label, length, sequence in zip(y[rows], lengths[rows], x[rows]):
            file.write(":".join(",".join(map(str, dim)) for dim in sequence[:length].T.tolist()) + f":{label}\n")
