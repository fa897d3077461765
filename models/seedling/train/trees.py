"""Trees of steps: what searches draw beside each other, every step labelled by the exact checker, packed into one sequence.

A trunk is read once for all that branches off it: a token sees its ancestors alone (a 4-d attention mask) and stands at its
depth's position, so every score is the one that the path alone would get, at a fraction of the tokens.
"""
import random
import torch
import data, gen, local_steps, wrong_steps


class Tree:
    """Distinct steps below a problem; `labels` are true while the path is right."""
    def __init__(self, p): self.p, self.parents, self.steps, self.labels, self.index = p, [], [], [], {}
    def path(self, at):
        out = []
        while at >= 0: out.append(self.steps[at]); at = self.parents[at]
        return out[::-1]
    def clean(self, at): return at < 0 or self.labels[at]
    def depth(self, at): return len(self.path(at))
    def add(self, parent, step):
        if (parent, step) in self.index: return self.index[parent, step]
        self.parents.append(parent); self.steps.append(step); at = self.index[parent, step] = len(self.steps) - 1
        self.labels.append(self.clean(parent) and bool(gen.check_steps(self.p, self.path(at))[-1])); return at
    def add_path(self, steps):
        at = -1
        for s in steps: at = self.add(at, s)
        return at


def read(row):
    """A row of tree_rollouts.py: {p, nodes: [[parent from 1 or 0 for the root, text, scores, complete, times drawn]]}."""
    tree, ids, score = Tree(row["p"]), [-1], {}
    for parent, text, scores, complete, count in row["nodes"]:
        at = ids[parent]
        for s in [s.strip("\n") for s in text.split(gen.SEP) if s.strip("\n")]: at = tree.add(at, s)
        ids.append(at); score[at] = scores[-1] if scores else .5
    return tree, score, [ids[i + 1] for i, n in enumerate(row["nodes"]) if n[3]]


def cut(p, path):
    """How many characters of the last step are right, when all before it is: as many as it has, unless one is false on the face of it."""
    step = path[-1]
    if p["family"] != "target": return local_steps.first_difference(step, (p["steps"] + [gen.final(p["answer"])])[len(path) - 1] if len(path) <= len(p["steps"]) + 1 else "")
    cur = list(p["nums"])
    for s in path[:-1]:
        m = gen.EQ.match(s)
        if not m: return len(step)
        cur.remove(int(m[1])); cur.remove(int(m[3])); cur.append(int(m[4]))
    m = gen.EQ.match(step)
    if not m: return local_steps.first_difference(step, gen.final(p["answer"]))
    a, op, b = int(m[1]), m[2], int(m[3])
    if a not in cur: return 0
    cur.remove(a)
    if b not in cur: return m.start(3)
    cur.remove(b); v = wrong_steps.calc(a, op, b)
    if op == "/" and b and a % b or op == "/" and not b or v < 0: return m.start(3)
    if v != int(m[4]): return local_steps.first_difference(step, f"{a} {op} {b} = {v}")
    if sorted(m[5][len(", left: "):].split(", ")) == sorted(map(str, cur + [v])) or not cur: return len(step)
    return local_steps.first_difference(step, f"{a} {op} {b} = {v}, left: {', '.join(map(str, cur + [v]))}")


def slip(r, p, i):
    """A wrong step where step i of the solution should stand."""
    if i == len(p["steps"]): return gen.final(wrong_steps.slip(r, int(p["answer"])))
    m = gen.EQ.match(p["steps"][i]); a, op, b, v, tail = int(m[1]), m[2], int(m[3]), int(m[4]), m[5]; k = r.random()
    carried = lambda w: gen.re.sub(rf"\b{v}\b", str(w), tail, count=1)
    if tail and k < .35:  # only what remains is wrong
        numbers = list(gen.re.finditer(r"\d+", tail)); n = r.choice(numbers); return p["steps"][i][:m.start(5)] + tail[:n.start()] + str(wrong_steps.slip(r, int(n[0]))) + tail[n.end():]
    if k < .7: w = wrong_steps.slip(r, v)
    elif k < .8: b = wrong_steps.slip(r, b) or 1; w = wrong_steps.calc(a, op, b)
    elif k < .88: op = r.choice([o for o in "+-*" if o != op]); w = wrong_steps.calc(a, op, b)
    elif k < .95: a = wrong_steps.slip(r, a); w = wrong_steps.calc(a, op, b)
    elif i + 1 < len(p["steps"]): return p["steps"][i + 1]
    else: return gen.final(v)
    return f"{a} {op} {b} = {abs(w)}{carried(abs(w))}"


def moves(r, cur, n):
    """Up to n distinct legal moves from the numbers `cur`, as (step, numbers left)."""
    out = {}
    for _ in range(4 * n):
        i, j = r.sample(range(len(cur)), 2); op, f = r.choice(gen.OPS); v = f(cur[i], cur[j])
        if v is None or v > 999 or len(out) >= n: continue
        rest = [cur[k] for k in range(len(cur)) if k not in (i, j)] + [v]
        out[f"{cur[i]} {op} {cur[j]} = {v}" + (f", left: {', '.join(map(str, rest))}" if len(rest) > 1 else "")] = rest
    return list(out.items())


def spoil(r, p, step, last):
    """A move made illegal: a wrong result, a number that is not there, a wrong list, or the target written down."""
    m = gen.EQ.match(step); k = r.random()
    if last and k < .6: return f"{m[1]} {m[2]} {m[3]} = {p['answer']}"
    if k < .75 or last: w = wrong_steps.slip(r, int(m[4])); return f"{m[1]} {m[2]} {m[3]} = {w}" + gen.re.sub(rf"\b{m[4]}$", str(w), m[5])
    n = r.choice(list(gen.re.finditer(r"\d+", m[5] if k < .9 else step))); at = m.start(5) if k < .9 else 0
    return step[:at + n.start()] + str(wrong_steps.slip(r, int(n[0]))) + step[at + n.end():]


def synthetic(r):
    """A problem, harder than the average, its solution and slips beside every step; in puzzles, many moves."""
    k = r.random()
    p = gen.sample(r) if k < .2 else gen.story(r, r.randint(4, 10)) if k < .5 else gen.expr(r, r.randint(4, 8)) if k < .8 else gen.target(r, r.choice([3, 4, 4]))
    tree = Tree(p); good = p["steps"] + [gen.final(p["answer"])]; tree.add_path(good)
    if p["family"] != "target":
        at = -1
        for i, s in enumerate(good):
            for _ in range(r.choice([1, 2, 2, 3])): tree.add(at, slip(r, p, i))
            at = tree.add(at, s)
        for _ in range(2): tree.add_path(wrong_steps.chain(r, p))
        return tree
    def grow(at, cur):
        if len(cur) == 1: tree.add(at, gen.final(p["target"])); tree.clean(at) and tree.add(at, gen.final(wrong_steps.slip(r, p["target"]))); return
        options = moves(r, cur, 9 if len(cur) > 2 else 5); kids = [(tree.add(at, s), rest) for s, rest in options]
        for s, _ in options[:2]: tree.add(at, spoil(r, p, s, len(cur) == 2))
        right = [k for k in kids if tree.clean(k[0])]
        for k in right[:r.choice([1, 1, 2])]: grow(*k)
        wrong = [k for k in kids if not tree.clean(k[0])]
        if len(cur) == 2 and wrong: grow(*wrong[0])
    cur, at = list(p["nums"]), -1
    for s in p["steps"]:
        grow(at, cur); m = gen.EQ.match(s); cur.remove(int(m[1])); cur.remove(int(m[3])); cur.append(int(m[4])); at = tree.add(at, s)
        if len(tree.steps) > 24: break
    return tree


def pack(tok, tree, chosen):
    """Token ids, their positions, node of each, predecessor, tags, marks (1 right so far, 0 wrong, -1 not judged) of the steps `chosen` (parents first)."""
    step_id = tok.token_to_id(data.STEP); ids = list(tok.encode(data.chat([("user", tree.p["problem"]), ("assistant", "")])[0]).ids)
    n = len(ids); out = dict(ids=ids, pos=list(range(n)), node=[0] * n, prev=list(range(-1, n - 1)), marks=[-1] * n, tags=[], at=list(chosen), family=tree.p["family"])
    slot, end, up = {-1: 0}, {-1: n - 1}, [None]
    for at in chosen:
        parent = tree.parents[at]; slot[at] = len(up); up.append(slot[parent]); e = tok.encode(tree.steps[at] + gen.SEP)
        first = len(ids); begin = out["pos"][end[parent]] + 1; m = len(e.ids) + 1
        ids += list(e.ids) + [step_id]; out["pos"] += range(begin, begin + m); out["node"] += [slot[at]] * m; out["prev"] += [end[parent]] + list(range(first, first + m - 1))
        if not tree.clean(parent): out["marks"] += [-1] * m
        else: c = len(tree.steps[at]) if tree.labels[at] else cut(tree.p, tree.path(at)); out["marks"] += [int(b <= c or bool(tree.labels[at])) for _, b in e.offsets] + [-1]
        end[at] = len(ids) - 1; out["tags"].append((len(ids) - 1, bool(tree.labels[at]), tree.clean(parent)))
    see = torch.eye(len(up), dtype=torch.bool)
    for i in range(1, len(up)): see[i] |= see[up[i]]
    out["see"] = see; return out


def batch(packed, pad):
    """Tensors (ids, positions, mask) for packed trees side by side."""
    n = max(len(e["ids"]) for e in packed); x, pos = torch.full((len(packed), n), pad), torch.zeros(len(packed), n, dtype=torch.long)
    mask = torch.zeros(len(packed), 1, n, n, dtype=torch.bool); tri = torch.ones(n, n, dtype=torch.bool).tril()
    for i, e in enumerate(packed):
        m = len(e["ids"]); x[i, :m] = torch.tensor(e["ids"]); pos[i, :m] = torch.tensor(e["pos"]); node = torch.tensor(e["node"])
        mask[i, 0, :m, :m] = e["see"][node][:, node] & tri[:m, :m]; mask[i, 0].fill_diagonal_(True)
    return x, pos, mask
