"""Goes on training a process reward model on what the engine's searches draw, step beside step.

usage: train_prm_trees.py PRM_DIR OUT_DIR MINUTES TREES.jsonl..     (trees by tree_rollouts.py; RANK=0 and RANK=1 beside each other, with STORE=a new file, share the work of two cores)

Where train_prm.py reads whole solutions, this reads trees (trees.py): a search's right steps and all that it drew beside them, above
all what the old verifier took for right, and synthetic trees, with slips beside every step and, in puzzles, many moves.
A step after the first error is labelled wrong, with a smaller weight, so that a later look can make good what the first one missed.
"""
import collections, json, math, os, random, sys, time
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
import data, trees
from train_opt import Muon

START, OUT, MINUTES, FILES = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
RANK, STORE = int(os.environ.get("RANK", 0)), os.environ.get("STORE"); LR = float(os.environ.get("LR", 7e-4)); TOKENS = int(os.environ.get("TOKENS", 4096)); OWN = float(os.environ.get("OWN", .5))
WRONG, AFTER = float(os.environ.get("WRONG", .45)), float(os.environ.get("AFTER", .3)); HELD_OUT, BUDGET = 160, 480; SHARES = dict(story=4, expr=4, target=2)  # trees of puzzles have twice the steps
torch.set_num_threads(1 if STORE else 2)
if STORE:
    import datetime, torch.distributed as dist
    dist.init_process_group("gloo", init_method="file://" + STORE, rank=RANK, world_size=2, timeout=datetime.timedelta(hours=6))
torch.manual_seed(2); r = random.Random(int(os.environ.get("SEED", 41)) + 1000 * RANK)
tok = Tokenizer.from_file(START + "/tokenizer.json"); PAD, GOOD, BAD = (tok.token_to_id(s) for s in (data.EOS, data.GOOD, data.BAD))
length = {}


def tokens(step):
    if step not in length: length[step] = len(tok.encode(step).ids) + 2
    return length[step]


def choose(r, tree, score, complete):
    """The steps of a search's tree to learn from now, parents first: right paths, what fooled the verifier beside them, and slips."""
    if tree.p["family"] != "target" or not any(tree.labels[c] for c in complete): complete = complete + [tree.add_path(tree.p["steps"] + [trees.gen.final(tree.p["answer"])])]
    taken, left = {}, BUDGET
    def take(at):
        nonlocal left
        if at < 0 or at in taken: return
        take(tree.parents[at]); taken[at] = None; left -= tokens(tree.steps[at])
    right = [c for c in complete if tree.labels[c]]; wrong = [c for c in complete if not tree.labels[c]]
    for c in r.sample(right, min(len(right), 2)): take(c)
    noise = lambda at: score.get(at, .5) + .05 + .3 * r.random()
    beside = sorted((at for at in range(len(tree.steps)) if not tree.labels[at] and tree.clean(tree.parents[at])), key=noise, reverse=True)
    also = sorted((at for at in range(len(tree.steps)) if tree.labels[at]), key=lambda at: r.random())
    for at in sorted(wrong, key=noise, reverse=True)[:2]: take(at)
    for at in [x for pair in zip(beside, also) for x in pair] + beside[len(also):]:
        if left < BUDGET * .15: break
        take(at)
    if tree.p["family"] != "target":
        parent = -1
        for i, s in enumerate(tree.p["steps"] + [trees.gen.final(tree.p["answer"])]):
            if left > 0 and r.random() < .5: take(tree.add(parent, trees.slip(r, tree.p, i)))
            parent = tree.add(parent, s)
    return sorted(taken)


def example():
    if own and r.random() < OWN:
        tree, score, complete = r.choice(r.choices(families, [SHARES[f[0][0].p["family"]] for f in families])[0]); n = len(tree.steps); chosen = choose(r, tree, score, complete); out = trees.pack(tok, tree, chosen)
        for k in [k for k, v in tree.index.items() if v >= n and tree.p["family"] != "target"]: del tree.index[k]  # slips are drawn anew
        if tree.p["family"] != "target": del tree.parents[n:], tree.steps[n:], tree.labels[n:]
        return out
    tree = trees.synthetic(r); return trees.pack(tok, tree, range(len(tree.steps)))


def batches():
    while True:
        ex = sorted((example() for _ in range(64)), key=lambda e: len(e["ids"])); groups, cur = [], []
        for e in ex:
            if cur and len(e["ids"]) * (len(cur) + 1) > TOKENS: groups.append(cur); cur = []
            cur.append(e)
        groups.append(cur); r.shuffle(groups); yield from groups


def hidden(group):
    x, pos, mask = trees.batch(group, PAD); mask = torch.zeros(mask.shape).masked_fill_(~mask, -1e9)
    with torch.autocast("cpu", torch.bfloat16): return x, prm.model(x, position_ids=pos, attention_mask=mask, use_cache=False).last_hidden_state.float()


def verdicts(h): return prm.lm_head(h)[:, [BAD, GOOD]]


def weighted(logits, y, w): return (F.cross_entropy(logits, y, reduction="none") * w).sum() / w.sum()


def losses(group):
    x, h = hidden(group); rows, at, y, w = zip(*((i, t, int(l), (1. if l else WRONG) * (1. if clean else AFTER)) for i, e in enumerate(group) for t, l, clean in e["tags"]))
    marks = [(i, t, m, e["prev"][t]) for i, e in enumerate(group) for t, m in enumerate(e["marks"]) if m >= 0]; mi, mt, my, mp = map(torch.tensor, zip(*marks)); nxt = my == 1
    return (weighted(verdicts(h[list(rows), list(at)]), torch.tensor(y), torch.tensor(w)), weighted(verdicts(h[mi, mt]), my, torch.tensor([.5, .1])[my]),
            F.cross_entropy(prm.lm_head(h[mi[nxt], mp[nxt]]), x[mi[nxt], mt[nxt]]))


def auc(rows):
    rows = sorted(rows); rank = {}; wrong = 0; area = 0
    for z, l in rows:
        if l: area += wrong
        else: wrong += 1
    return area / max(1, wrong * (len(rows) - wrong))


@torch.no_grad()
def report(name, packed):
    prm.eval(); rows = collections.defaultdict(list); later = collections.defaultdict(list)
    for e in packed:
        _x, h = hidden([e]); z = verdicts(h[0, [t for t, *_ in e["tags"]]]).diff(dim=-1)[:, 0].tolist()
        for v, (_t, l, clean) in zip(z, e["tags"]):
            for f in (e["family"], "all"): (rows if clean else later)[f].append((v, l))
    prm.train(); print(f"  {name}:", "; ".join(f"{f} auc {auc(v):.4f} wrong caught {sum(z < 0 for z, l in v if not l) / max(1, sum(not l for _, l in v)):.3f} right kept {sum(z >= 0 for z, l in v if l) / max(1, sum(l for _, l in v)):.3f} later caught {sum(z < 0 for z, _ in later[f]) / max(1, len(later[f])):.2f}" for f, v in sorted(rows.items())), flush=True)


def save():
    if RANK == 0: prm.save_pretrained(OUT); tok.save(OUT + "/tokenizer.json"); report("held out", held_out); report("synthetic", synthetic)


own = [trees.read(row) for f in FILES for row in map(json.loads, open(f)) if row["nodes"]]; fixed = random.Random(9)
held_out = [trees.pack(tok, t, choose(fixed, t, s, c)) for t, s, c in own[:HELD_OUT:2]]; own = own[HELD_OUT:]; families = [[t for t in own if t[0].p["family"] == f] for f in sorted({t[0].p["family"] for t in own})]; synthetic = [trees.pack(tok, t, range(len(t.steps))) for t in (trees.synthetic(fixed) for _ in range(40))]
prm = LlamaForCausalLM.from_pretrained(START, dtype=torch.float32, attn_implementation="sdpa"); prm.train(); first = prm.config.num_hidden_layers - 3
groups = collections.defaultdict(list)
for name, w in prm.named_parameters():
    layer = int(name.split(".")[2]) if name.startswith("model.layers.") else None
    groups["embed" not in name and w.ndim == 2, 1. if layer is None and "embed" not in name or layer is not None and layer >= first else .5].append(w)
optimizers = [(Muon(ws, LR) if matrix else torch.optim.AdamW(ws, lr=LR, betas=(.9, .95), weight_decay=0.), share) for (matrix, share), ws in groups.items()]; params = list(prm.parameters())
print(f"{len(own)} trees, {sum(len(t.steps) for t, *_ in own) / max(1, len(own)):.0f} steps each", flush=True)
if RANK == 0: report("held out", held_out); report("synthetic", synthetic)
start = time.time(); step = 0; ema = None; seen = 0; saved = start
for group in batches():
    f = (time.time() - start) / (MINUTES * 60)
    tag, token, lm = losses(group); (tag + .5 * token + .1 * lm).backward(); seen += sum(len(e["ids"]) for e in group)
    if STORE:
        flat = torch.cat([p.grad.flatten() for p in params] + [torch.tensor([f])]); dist.all_reduce(flat); flat /= 2; f = flat[-1].item(); i = 0
        for p in params: p.grad.copy_(flat[i:i + p.numel()].view_as(p)); i += p.numel()
    if f >= 1: break
    torch.nn.utils.clip_grad_norm_(params, 1.)
    for o, share in optimizers:
        for q in o.param_groups: q["lr"] = share * LR * min(1, (step + 1) / 40) * (.5 * (1 + math.cos(math.pi * f)) * .97 + .03)
        o.step(); o.zero_grad(set_to_none=True)
    step += 1; now = [l.item() for l in (tag, token, lm)]; ema = now if ema is None else [.97 * a + .03 * b for a, b in zip(ema, now)]
    if step % 20 == 0 and RANK == 0: print(f"{step} {time.time() - start:.0f}s tag {ema[0]:.4f} token {ema[1]:.4f} lm {ema[2]:.4f} {seen / (time.time() - start):.0f} tokens/s", flush=True)
    if step % 250 == 0: save()
save()
