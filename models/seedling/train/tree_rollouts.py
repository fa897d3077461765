"""The trees that the engine's searches grow over fresh problems, as JSON lines for train_prm_trees.py.
usage: tree_rollouts.py URL OUT.jsonl PROBLEMS SEED EXCEPT.jsonl..     (URL of `espalier serve`; resumes; no problem of the suites EXCEPT is drawn)"""
import concurrent.futures, json, os, random, sys, threading, time, urllib.request
import gen

url, out_path, problems, seed, suites = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
EFFORTS = [dict(reasoning_effort="high", temperature=.8), dict(reasoning_effort="high", temperature=1.), dict(reasoning_effort="xhigh", temperature=.8)]
SEARCHES = json.loads(os.environ["SEARCHES"]) if "SEARCHES" in os.environ else EFFORTS  # request fields, in turn
lock = threading.Lock()


def draw(r, k):
    """Three of four as hard as the evaluation suites, the fourth as training has them."""
    if k % 4 == 3: return gen.sample(r)
    return [lambda: gen.story(r, r.randint(4, 10)), lambda: gen.expr(r, r.randint(4, 8)), lambda: gen.target(r, r.choice([3, 4, 4]))][k % 3]()


def nodes(tree):
    """[parent, text, scores, complete, times drawn]; equal steps below one parent are one; parents count from 1, 0 is the root."""
    ids, index, out = {0: 0}, {}, []
    for t in tree:
        parent = ids.get(t["parent"], 0); key = parent, t["text"]
        if key in index: out[index[key] - 1][4] += 1
        else: out.append([parent, t["text"], t["scores"], t["complete"], 1]); index[key] = len(out)
        ids[t["id"]] = index[key]
    return out


def ask(i, p, f):
    body = dict(model="seedling", messages=[dict(role="user", content=p["problem"])], seed=seed * 2**20 + i, **SEARCHES[i % len(SEARCHES)])
    body["reasoning"] = dict(body.get("reasoning", {}), include_tree=True)
    with urllib.request.urlopen(urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}), timeout=3600) as answer: tree = json.load(answer)["search"]["tree"]
    with lock: f.write(json.dumps(dict(p=p, nodes=nodes(tree))) + "\n"); f.flush()


r = random.Random(seed); seen = {json.loads(l)["problem"] for s in suites for l in open(s)}; wanted = []
while len(wanted) < problems:
    p = draw(r, len(wanted))
    if p["problem"] not in seen: seen.add(p["problem"]); wanted.append(p)
done = {json.loads(l)["p"]["problem"] for l in open(out_path)} if os.path.exists(out_path) else set(); start = time.time()
with concurrent.futures.ThreadPoolExecutor(32) as pool, open(out_path, "a") as f:
    for k, job in enumerate([pool.submit(ask, i, p, f) for i, p in enumerate(wanted) if p["problem"] not in done]):
        job.result()
        if k % 100 == 99: print(f"problems {k + 1} {time.time() - start:.0f}s", flush=True)
