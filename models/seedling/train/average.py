"""The mean of some checkpoints' weights as one f16 checkpoint, with the files that stand beside the last one.
usage: average.py MODEL_DIR.. OUT_DIR"""
import os, shutil, sys
import torch
from safetensors.torch import load_file, save_file

*sources, out = sys.argv[1:]
weights = [load_file(source + "/model.safetensors") for source in sources]
mean = {name: (sum(w[name].float() for w in weights) / len(weights)).half().contiguous() for name in weights[0]}
assert all(torch.isfinite(w).all() for w in mean.values())
os.makedirs(out, exist_ok=True)
for name in os.listdir(sources[-1]):
    if name != "model.safetensors": shutil.copy(os.path.join(sources[-1], name), out)
save_file(mean, out + "/model.safetensors", metadata={"format": "pt"})
