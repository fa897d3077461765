//! Plans for the bundled model, with its own tokenizer, template and table.

use super::*;
use crate::engine::Priority;
use crate::plan::{
    Auto, Beam, BudgetParams, Final, Mcts, Parameter, PlanError, SamplingParams, Scoring, Select, Setting,
    Steps, Variant, VoteStop, Voting, Weight,
};
use crate::prompt::{Border, Message, TemplateTokens};
use crate::verify::Aggregate;
use proptest::prelude::*;
use serde::Deserialize;
use std::sync::LazyLock;

/// What `espalier.toml` holds.
#[derive(Deserialize)]
struct Settings {
    prompt: prompt::Config,
    plan: Config,
}

fn file(name: &str) -> String {
    let path = format!("{}/models/seedling/policy/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("the bundled model is in the repository")
}

fn tokenizer() -> Arc<Tokenizer> {
    static BUNDLED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        Arc::new(Tokenizer::from_json(file("tokenizer.json").as_bytes()).expect("a tokenizer"))
    });
    Arc::clone(&BUNDLED)
}

/// A table of the tests' own: what is shipped follows from measurements.
const TABLE: &str = r#"
default_effort = "low"
branch_tokens = 160
[efforts]
none = { mode = "direct", budget = 4096 }
minimal = { mode = "direct", budget = 4096 }
low = { mode = "cot", budget = 8192 }
medium = { mode = "self_consistency", vote = "verifier", temperature = 0.8, budget = 32768 }
high = { mode = "beam", width = 8, expansion = 4, temperature = 0.8, budget = 65536 }
xhigh = { mode = "mcts", width = 4, simulations = 512, temperature = 0.8, budget = 131072 }
max = { mode = "mcts", width = 4, simulations = 2048, temperature = 0.8, budget = 524288 }
"#;

fn settings() -> Settings {
    let bundled: Settings = toml::from_str(&file("espalier.toml")).expect("the bundled settings are valid");
    Settings { plan: toml::from_str(TABLE).expect("a valid table"), ..bundled }
}

fn caps(context: usize, pool_blocks: usize) -> Caps {
    Caps { context, vocab: 640, eos: vec![2, 0], block: 16, pool_blocks }
}

fn planner_of(settings: Settings, caps: Caps) -> Planner {
    let config = serde_json::from_str(&file("tokenizer_config.json")).expect("JSON");
    let source = ChatTemplate::source(&config, None).expect("a template");
    let template = ChatTemplate::new(&source, TemplateTokens::from_config(&config)).expect("Jinja");
    let defaults = Sampling::default();
    let Settings { prompt, plan: config } = settings;
    let verifiers = Verifiers { prm: Some(Aggregate::Prod), judge: None };
    Planner::new(PlannerParts { config, prompt, template, tokenizer: tokenizer(), caps, defaults, verifiers })
        .expect("the marker can be encoded")
}

fn planner() -> Planner {
    planner_of(settings(), caps(2_048, 1 << 16))
}

fn params() -> Params {
    Params {
        messages: vec![Message { role: "user", content: "What is 3 + 4?".to_owned() }],
        effort: None,
        mode: None,
        max_completion_tokens: None,
        budget: BudgetParams::default(),
        settings: crate::plan::Settings::default(),
        n: 1,
        temperature: None,
        top_p: None,
        sampling: SamplingParams::default(),
        priority: Priority::Normal,
        cache_salt: None,
        seed: None,
        stop: Vec::new(),
        logprobs: None,
    }
}

fn effort(effort: Effort) -> Params {
    Params { effort: Some(effort), ..params() }
}

fn plan(params: &Params) -> Plan {
    planner().plan(params, 77).expect("it can be planned")
}

fn some(value: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(value)
}

fn tokens(plan: &Plan) -> Vec<u32> {
    plan.choices.iter().map(|budget| budget.tokens).collect()
}

fn text(plan: &Plan) -> String {
    tokenizer().decode(&plan.prompt).expect("ids of this tokenizer")
}

/// The table's votes.
fn votes(branches: u32) -> Mode {
    let weight = Weight::Score(Aggregate::Prod);
    Mode::SelfConsistency(Voting {
        branches,
        wave: branches.min(4),
        stop: VoteStop::Posterior(0.95),
        weight,
        likelihood: 0.0,
    })
}

const STEPS: Steps = Steps { most: 40, tokens: 256, repeats: 0 };

/// The table's beams.
fn beams(width: u32, expansion: u32) -> Mode {
    Mode::Beam(Beam {
        likelihood: (0.0, 0.0),
        width,
        expansion,
        variant: Variant::Plain,
        lookahead: 0,
        scoring: Scoring::Verifier(Aggregate::Prod),
        choice: Final::Vote,
        steps: STEPS,
    })
}

/// The table's tree searches.
fn trees(simulations: u32) -> Mode {
    Mode::Mcts(Mcts {
        likelihood: 0.0,
        simulations,
        tokens: 0,
        width: 4,
        select: Select::Uct(1.0),
        widening: None,
        scoring: Scoring::Verifier(Aggregate::Prod),
        whole: true,
        choice: Final::Vote,
        in_flight: 8,
        enough: None,
        steps: STEPS,
    })
}

#[test]
fn every_effort_has_the_mode_width_and_budget_of_its_row() {
    let rows = [
        (Effort::None, Mode::Direct, 4_096),
        (Effort::Minimal, Mode::Direct, 4_096),
        (Effort::Low, Mode::ChainOfThought, 8_192),
        (Effort::Medium, votes(16), 32_768),
        (Effort::High, beams(8, 4), 65_536),
        (Effort::Xhigh, trees(512), 131_072),
        (Effort::Max, trees(2_048), 524_288),
    ];
    for (name, mode, budget) in rows {
        let plan = plan(&effort(name));
        assert_eq!((plan.effort, plan.mode, tokens(&plan)), (name, mode, vec![budget]));
        assert_eq!(plan.choices[0].branches, mode.branches().unwrap_or(MOST_BRANCHES));
        let usual = plan.prompt.len() + 2 * settings().plan.branch_tokens as usize;
        let fits = caps(2_048, 1 << 16).widest(plan.prompt.len(), usual);
        assert_eq!(plan.live, (mode.alive() as usize).min(fits));
        assert_eq!(plan.settings, mode.settings(), "with the default ones");
        assert_eq!(plan.sampling.temperature, if mode.selects() { 0.8 } else { 1.0 });
        assert!(plan.notes.is_empty(), "{:?}", plan.notes);
    }
    assert_eq!(plan(&params()).effort, Effort::Low);
}

#[test]
fn a_mode_by_name_takes_its_weakest_row_and_keeps_the_larger_budget() {
    let named = |effort, mode| plan(&Params { effort, mode: Some(mode), ..params() });
    let vote = named(None, ModeName::SelfConsistency);
    assert_eq!((vote.mode, tokens(&vote), vote.sampling.temperature), (votes(16), vec![32_768], 0.8));
    let vote = named(Some(Effort::High), ModeName::SelfConsistency);
    assert_eq!((vote.mode, tokens(&vote)), (votes(16), vec![65_536]), "the effort's own budget");
    let own = named(Some(Effort::Max), ModeName::Mcts);
    assert_eq!((own.mode, tokens(&own)), (trees(2_048), vec![524_288]), "the effort's own row has that mode");
    assert_eq!(named(Some(Effort::Low), ModeName::Mcts).mode, trees(512));
    // No row has these: defaults, and the relatives' temperature and budget.
    for name in [ModeName::BestOfN, ModeName::Lookahead, ModeName::Auto] {
        let plan = named(None, name);
        assert_eq!((plan.mode.kind(), tokens(&plan), plan.sampling.temperature), (name, vec![524_288], 0.8));
        let expected = crate::plan::Settings::default().of_mode(name);
        let shown = |(parameter, setting)| match parameter {
            Parameter::Aggregate => assert_eq!(setting, Setting::Choice("prod"), "the verifier's own"),
            other => assert_eq!(Some(setting), expected.get(other), "{other:?}"),
        };
        plan.settings.iter().for_each(shown);
        assert!(plan.settings.get(Parameter::Aggregate).is_some());
    }
    let cot = named(Some(Effort::Max), ModeName::Cot);
    assert_eq!((cot.mode, tokens(&cot), cot.effort), (Mode::ChainOfThought, vec![524_288], Effort::Max));
    assert_eq!(named(Some(Effort::High), ModeName::Direct).mode, Mode::Direct);
    assert_eq!(named(Some(Effort::None), ModeName::Pro).mode, trees(2_048));
    assert_eq!(named(Some(Effort::Medium), ModeName::Standard).mode, votes(16));
}

#[test]
fn a_mode_by_name_runs_with_its_own_terms_where_the_effort_has_another_mode() {
    let own = "\n[modes]\nmcts = { width = 9, simulations = 33, temperature = 0.6, budget = 100000 }\n\
               auto = { probe = 3, select = \"puct\", budget = 7 }";
    let plan_config = toml::from_str(&format!("{TABLE}{own}")).expect("a valid table");
    let planner = planner_of(Settings { plan: plan_config, ..settings() }, caps(2_048, 1 << 16));
    let named = |effort, mode| {
        planner.plan(&Params { effort, mode: Some(mode), ..params() }, 77).expect("it can be planned")
    };
    let tree = named(Some(Effort::High), ModeName::Mcts);
    assert_eq!((tree.settings.count(Parameter::Width), tokens(&tree)), (9, vec![100_000]));
    assert_eq!((tree.settings.count(Parameter::Simulations), tree.sampling.temperature), (33, 0.6));
    assert_eq!(named(Some(Effort::Xhigh), ModeName::Mcts).mode, trees(512), "the effort's own row");
    let auto = named(None, ModeName::Auto);
    let Mode::Auto(Auto { probe: 3, tree, .. }) = auto.mode else { panic!("{:?}", auto.mode) };
    assert!(matches!(tree.select, Select::Puct { .. }));
    assert_eq!(
        (tokens(&auto), auto.sampling.temperature),
        (vec![8_192], 1.0),
        "the effort's budget is larger"
    );
    assert_eq!(named(None, ModeName::Beam).mode, beams(8, 4), "without terms, its weakest row");
}

#[test]
fn the_smallest_bound_holds_and_the_row_only_without_one() {
    let bounded = |own: u32, request: u32, n| {
        let budget = BudgetParams { tokens: some(request), ..BudgetParams::default() };
        tokens(&plan(&Params { max_completion_tokens: some(own), budget, n, ..params() }))
    };
    assert_eq!(bounded(100, 0, 1), [100]);
    assert_eq!(bounded(0, 50, 1), [50]);
    assert_eq!(bounded(100, 50, 1), [50]);
    assert_eq!(bounded(20, 50, 1), [20]);
    assert_eq!(bounded(0, 50, 3), [17, 17, 16]);
    assert_eq!(bounded(16, 50, 3), [16, 16, 16]);
    assert_eq!(bounded(100, 0, 2), [100, 100], "each choice has its own");
    assert_eq!(bounded(20_000, 0, 1), [20_000], "a bound may exceed the row's");
    assert_eq!(bounded(0, 3, 3), [1, 1, 1]);
}

#[test]
fn a_budget_below_the_number_of_choices_is_refused() {
    let refused = |tokens, branches, by_max_tokens| {
        let (tokens, branches) = (some(tokens), some(branches));
        let budget = BudgetParams { tokens, branches, by_max_tokens, ..BudgetParams::default() };
        planner().plan(&Params { budget, n: 3, ..params() }, 0).expect_err("too little")
    };
    let error = |field, value| PlanError::BudgetBelowChoices { field, value, n: 3 };
    assert_eq!(refused(2, 0, false), error("reasoning.budget.tokens", 2));
    assert_eq!(refused(2, 0, true), error("reasoning.max_tokens", 2), "the name that was sent");
    assert_eq!(refused(0, 2, false), error("reasoning.budget.branches", 2));
}

#[test]
fn the_width_is_lowered_rather_than_branches_cut_short() {
    let narrow = |own, branches, n| {
        let budget = BudgetParams { branches: some(branches), ..BudgetParams::default() };
        plan(&Params { max_completion_tokens: some(own), budget, n, ..effort(Effort::Medium) })
    };
    let plan = narrow(1_000, 0, 1);
    assert_eq!((plan.mode, plan.choices[0].branches), (votes(4), 4), "750 / 160");
    let note = "width lowered from 16 to 4 by 1000 tokens, which beside 250 kept for the answer are enough \
                for 4 samples at 160 each";
    assert_eq!(plan.notes, [note]);
    assert_eq!(plan.settings.count(Parameter::Branches), 4, "what ran is what is shown");
    let plan = narrow(0, 5, 1);
    assert_eq!(plan.mode, votes(5));
    assert_eq!(plan.notes, ["width lowered from 16 to 5 by reasoning.budget.branches"]);
    let plan = narrow(700, 5, 1);
    assert_eq!((plan.mode, plan.notes.len()), (votes(3), 2));
    assert_eq!(narrow(0, 11, 3).mode, votes(3), "the least share counts");
    assert_eq!(narrow(200, 0, 1).mode, Mode::ChainOfThought);
    assert_eq!(narrow(20, 0, 1).mode, Mode::ChainOfThought);
    assert!(narrow(3_072, 16, 1).notes.is_empty());
}

#[test]
fn a_beam_gets_narrower_and_a_tree_search_stops_earlier() {
    let with = |effort, own| plan(&Params { max_completion_tokens: some(own), ..self::effort(effort) });
    let narrow = with(Effort::High, 1_000);
    assert_eq!((narrow.mode, narrow.choices[0].branches), (beams(2, 2), MOST_BRANCHES));
    assert!(
        narrow.notes[0].starts_with("width lowered from 8x4 to 2x2 by 1000 tokens"),
        "{:?}",
        narrow.notes
    );
    assert_eq!(with(Effort::High, 5_632).mode, beams(8, 4));
    assert_eq!(with(Effort::Xhigh, 1_000).mode, trees(512));
    assert_eq!(with(Effort::Xhigh, 20).mode, trees(512), "after its first simulation, if need be");
    let each = settings().plan.branch_tokens;
    let note =
        format!("mcts may be cut short by 1000 tokens: a simulation takes up to {each} of them as a rule");
    assert_eq!(with(Effort::Xhigh, 1_000).notes, [note]);
    assert!(plan(&effort(Effort::Xhigh)).notes.is_empty(), "its own budget is what it is meant to have");
    let vote = with(Effort::High, 700);
    assert!(
        vote.notes[0].starts_with("beam was given up for a vote over 3 chains by 700 tokens"),
        "{:?}",
        vote.notes
    );
    let own = Weight::Score(Aggregate::Prod);
    assert!(matches!(vote.mode, Mode::SelfConsistency(Voting { branches: 3, weight, .. }) if weight == own));
    assert_eq!(vote.choices[0].branches, 3);
    let given_up = with(Effort::High, 200).notes;
    assert!(
        given_up[0].starts_with("beam was given up for one chain of thought by 200 tokens"),
        "{given_up:?}"
    );
}

fn set(parameters: &[(Parameter, Setting)]) -> crate::plan::Settings {
    let mut settings = crate::plan::Settings::default();
    parameters.iter().for_each(|(parameter, setting)| settings.set(*parameter, *setting));
    settings
}

#[test]
fn parameters_by_request() {
    let asked = |effort, mode, parameter, setting| {
        let settings = set(&[(parameter, setting)]);
        planner().plan(&Params { effort: Some(effort), mode, settings, ..params() }, 0)
    };
    let branches =
        |effort, mode, branches| asked(effort, mode, Parameter::Branches, Setting::Count(branches));
    assert_eq!(branches(Effort::Medium, None, 3).map(|plan| plan.mode), Ok(votes(3)));
    assert_eq!(
        branches(Effort::Medium, Some(ModeName::SelfConsistency), 3).map(|plan| plan.mode),
        Ok(votes(3))
    );
    let one = branches(Effort::Medium, None, 1).expect("a plan");
    assert_eq!(one.mode, Mode::ChainOfThought);
    assert_eq!(one.notes, ["self_consistency of one branch is one chain of thought"]);
    let single = branches(Effort::Low, None, 3).expect("a plan");
    assert_eq!(single.mode, Mode::ChainOfThought);
    assert_eq!(single.notes, ["branches is no parameter of cot, the mode of this effort"]);
    assert!(single.settings.iter().next().is_none());
    let error = PlanError::Parameter { parameter: "branches", mode: "cot" };
    assert_eq!(branches(Effort::Low, Some(ModeName::Cot), 3).err(), Some(error));
    let wide = asked(Effort::High, None, Parameter::Width, Setting::Count(2)).expect("a plan");
    assert_eq!((wide.mode, wide.settings.count(Parameter::Expansion)), (beams(2, 4), 4));
}

#[test]
fn the_report_shows_the_wave_that_ran() {
    let wave = |stop, wave| {
        let settings =
            set(&[(Parameter::Stop, Setting::Choice(stop)), (Parameter::Wave, Setting::Count(wave))]);
        let plan = plan(&Params { settings, ..effort(Effort::Medium) });
        let Mode::SelfConsistency(vote) = plan.mode else { panic!("{:?}", plan.mode) };
        (vote.wave, plan.settings.count(Parameter::Wave))
    };
    assert_eq!(wave("window", 1), (2, 2), "one chain always agrees with itself");
    assert_eq!([wave("window", 3), wave("posterior", 1)], [(3, 3), (1, 1)]);
}

#[test]
fn without_a_verifier_other_things_take_its_place_and_the_plan_says_so() {
    let mut planner = planner();
    planner.parts.verifiers = Verifiers::default();
    let of = |name| planner.plan(&Params { mode: Some(name), ..params() }, 0).expect("a plan");
    for name in [ModeName::Beam, ModeName::Lookahead, ModeName::Mcts, ModeName::Auto] {
        let plan = of(name);
        let scoring = match plan.mode {
            Mode::Beam(beam) => beam.scoring,
            Mode::Mcts(mcts) => mcts.scoring,
            Mode::Auto(auto) => auto.tree.scoring,
            other => panic!("{other:?}"),
        };
        assert_eq!((scoring, plan.mode.asks()), (Scoring::Rollouts(2), None));
        assert_eq!(plan.notes, ["no verifier is configured, so 2 rollouts value each step"]);
    }
    let max_completion_tokens = some(700);
    let narrow = Params { mode: Some(ModeName::Beam), max_completion_tokens, ..params() };
    let given_up = planner.plan(&narrow, 0).expect("a plan").notes;
    assert_eq!(given_up.len(), 1, "nothing of rollouts, which a vote has not: {given_up:?}");
    assert!(
        given_up[0].starts_with("beam was given up for a vote over 3 chains, each counting 1, by 700 tokens"),
        "{given_up:?}"
    );
    assert_eq!(
        of(ModeName::SelfConsistency).notes,
        ["no verifier is configured, so every vote counts the same"]
    );
    assert_eq!(
        of(ModeName::BestOfN).notes,
        ["no verifier is configured, so chains are ranked by their likelihood"]
    );
}

#[test]
fn the_verifier_s_part_of_the_budget_is_split_between_choices() {
    let budget = BudgetParams { verifier_tokens: Some(7), ..BudgetParams::default() };
    let plan = plan(&Params { budget, n: 2, ..effort(Effort::High) });
    let parts: Vec<_> = plan.choices.iter().map(|budget| budget.verifier_tokens).collect();
    assert_eq!(parts, [Some(4), Some(3)]);
    assert_eq!(self::plan(&effort(Effort::High)).choices[0].verifier_tokens, None);
}

#[test]
fn at_temperature_0_one_branch_runs_and_the_report_says_so() {
    for (name, mode) in [(Effort::Medium, "self_consistency"), (Effort::High, "beam"), (Effort::Max, "mcts")]
    {
        let plan = plan(&Params { temperature: Some(0.0), ..effort(name) });
        assert_eq!((plan.mode, plan.live, plan.choices[0].branches), (Mode::ChainOfThought, 1, 1));
        assert_eq!(plan.notes, [format!("temperature 0 makes all branches of {mode} equal, so one was run")]);
        assert!(plan.settings.iter().next().is_none(), "of a chain of thought");
    }
    let low = Params { temperature: Some(0.0), ..effort(Effort::Low) };
    assert!(self::plan(&low).notes.is_empty());
}

#[test]
fn the_request_rules_over_the_row_and_the_model() {
    let plan = plan(&Params { temperature: Some(0.3), top_p: Some(0.5), ..effort(Effort::Medium) });
    assert_eq!(plan.sampling, Sampling { temperature: 0.3, top_p: 0.5, ..Sampling::default() });
    let asked = SamplingParams {
        top_k: Some(7),
        min_p: Some(0.1),
        repetition_penalty: Some(1.2),
        frequency_penalty: 0.5,
        presence_penalty: -0.5,
        logit_bias: vec![(3, -100.0)],
    };
    let plan = self::plan(&Params { sampling: asked, ..params() });
    let expected = Sampling {
        top_k: 7,
        min_p: 0.1,
        repetition_penalty: 1.2,
        frequency_penalty: 0.5,
        presence_penalty: -0.5,
        bias: [(3, -100.0)].into(),
        ..Sampling::default()
    };
    assert_eq!(plan.sampling, expected);
    let nothing = self::plan(&Params { top_p: Some(0.0), ..params() });
    assert!(nothing.sampling.top_p > 0.0, "the nucleus holds at least one token");
}

#[test]
fn a_bias_on_a_token_that_the_model_lacks_is_refused() {
    let vocab = 640;
    let biased = |id: usize| {
        let logit_bias = vec![(0, 1.0), (u32::try_from(id).expect("small"), 1.0)];
        let sampling = SamplingParams { logit_bias, ..SamplingParams::default() };
        planner().plan(&Params { sampling, ..params() }, 0).map(|plan| plan.sampling.bias.len())
    };
    let id = u32::try_from(vocab).expect("small");
    assert_eq!(biased(vocab - 1), Ok(2));
    assert_eq!(biased(vocab), Err(PlanError::Vocabulary { id, vocab }));
}

#[test]
fn a_prompt_that_fills_the_context_is_refused() {
    let length = plan(&params()).prompt.len();
    let of = |context| planner_of(settings(), caps(context, 1 << 16)).plan(&params(), 0);
    let refused = of(length).expect_err("there is no room");
    assert_eq!(refused, PlanError::ContextLength { tokens: length, context: length });
    let plan = of(length + 1).expect("there is room for one token");
    assert_eq!((plan.positions, plan.choices[0].branch_tokens), (length + 1, 1));
    assert_eq!(plan.choices[0].reserve, 0, "less than the tokens of a branch");
}

#[test]
fn a_bound_past_the_context_is_clamped_to_it() {
    let plan = plan(&Params { max_completion_tokens: some(1_000_000), ..params() });
    assert_eq!(plan.positions, 2_048);
    assert_eq!(plan.choices[0].branch_tokens as usize, 2_048 - plan.prompt.len());
    let small = self::plan(&Params { max_completion_tokens: some(10), ..params() });
    assert_eq!(small.positions, small.prompt.len() + 10);
}

#[test]
fn a_small_pool_lowers_what_is_alive_at_once_and_a_tiny_one_is_an_error() {
    let bounded = Params { max_completion_tokens: some(2_112), ..effort(Effort::Medium) };
    let whole = plan(&bounded);
    assert_eq!((whole.mode, whole.live), (votes(10), 10));
    let needs = |width| caps(2_048, 0).blocks_for(whole.prompt.len(), whole.positions, width);
    let live = |blocks| planner_of(settings(), caps(2_048, blocks)).plan(&bounded, 0).map(|plan| plan.live);
    let usual = whole.positions.min(whole.prompt.len() + 2 * settings().plan.branch_tokens as usize);
    let fits = |width| caps(2_048, 0).blocks_for(whole.prompt.len(), usual, width).max(needs(1));
    assert!(fits(9) > needs(1), "branches do not usually get that long");
    assert_eq!(live(fits(9)), Ok(9), "what fits at the usual length");
    assert_eq!(live(fits(20)), Ok(10));
    let least = caps(2_048, needs(1)).widest(whole.prompt.len(), usual).clamp(1, 10);
    assert_eq!(live(needs(1)), Ok(least));
}

/// The server's own budget is of all branches together, and so is a client's: neither
/// need fit in the pool.
#[test]
fn a_branch_is_no_longer_than_the_pool_and_only_a_prompt_that_fills_it_is_refused() {
    for effort in [Effort::None, Effort::Low, Effort::Medium, Effort::High, Effort::Max] {
        let of = |blocks| planner_of(settings(), caps(2_048, blocks)).plan(&self::effort(effort), 0);
        let whole = of(1 << 16).expect("a plan");
        let prompt = whole.prompt.len();
        let filled = prompt / 16 + 1;
        let needed = filled + 1;
        assert_eq!(of(filled).err(), Some(PlanError::Pool { needed, blocks: filled }), "{effort}");
        for blocks in needed..needed + 20 {
            let plan = of(blocks).expect("a plan");
            assert!(caps(2_048, blocks).widest(prompt, plan.positions) >= 1, "{effort} in {blocks} blocks");
            let room = (blocks - 1) * 16 - prompt;
            let budget = plan.choices[0];
            assert_eq!(budget.branch_tokens as usize, room);
            let note = format!("a branch has at most {room} tokens, as the KV pool holds no more");
            assert_eq!(plan.notes.contains(&note), budget.tokens as usize > room, "{:?}", plan.notes);
        }
        assert!(whole.notes.is_empty(), "{:?}", whole.notes);
    }
}

/// What a search makes of its tree depends on how much of it can be kept.
#[test]
fn a_pool_that_cannot_keep_a_tree_is_noted() {
    let notes = |blocks, simulations| {
        let settings = set(&[(Parameter::Simulations, Setting::Count(simulations))]);
        let params = Params { settings, ..effort(Effort::Xhigh) };
        let plan = planner_of(self::settings(), caps(2_048, blocks)).plan(&params, 0).expect("a plan");
        let note = format!("at most {} branches are alive at once, as the KV pool holds no more", plan.live);
        plan.notes.contains(&note)
    };
    assert_eq!([notes(1 << 16, 512), notes(1 << 16, 2), notes(400, 512)], [false, false, true]);
}

#[test]
fn a_small_pool_narrows_beams_and_the_plan_says_so() {
    let whole = plan(&effort(Effort::High));
    let usual = whole.prompt.len() + 2 * settings().plan.branch_tokens as usize;
    let with = |width| {
        let blocks = caps(2_048, 0).blocks_for(whole.prompt.len(), usual, width);
        let bounded = Params { max_completion_tokens: some(8_192), ..effort(Effort::High) };
        let positions = planner().plan(&bounded, 0).expect("a plan").positions;
        let least = caps(2_048, 0).blocks_for(whole.prompt.len(), positions, 1);
        let blocks = blocks.max(least);
        let fits = caps(2_048, blocks).widest(whole.prompt.len(), usual);
        (fits, planner_of(settings(), caps(2_048, blocks)).plan(&bounded, 0).expect("a plan"))
    };
    let (fits, narrow) = with(10);
    assert_eq!((fits, narrow.mode), (10, beams(6, 2)));
    let note = "width lowered from 8x4 to 6x2 by the KV pool, which has room for 10 whole branches at once";
    assert_eq!(narrow.notes, [note]);
    assert_eq!(narrow.settings.count(Parameter::Width), 6);
    assert!((6 * (1 + 2)..10 + 18).contains(&narrow.live), "{}", narrow.live);
    // 40 branches are alive at once, but candidates share what their beams hold.
    let (fits, wide) = with(20);
    assert_eq!((fits, wide.mode, wide.notes.len()), (20, beams(8, 4), 0));
    assert!(wide.live >= 8 * (1 + 4), "{}", wide.live);
}

/// A planner for the table with this in place of one of its lines.
fn changed(from: &str, to: &str) -> Planner {
    assert!(TABLE.contains(from), "{from}");
    let plan = toml::from_str(&TABLE.replacen(from, to, 1)).expect("a valid table");
    planner_of(Settings { plan, ..settings() }, caps(2_048, 1 << 16))
}

#[test]
fn the_report_shows_what_a_count_ran_with_and_not_what_its_row_has_beside() {
    let planner = changed("vote = \"verifier\"", "vote = \"verifier\", vote_likelihood = 0.1");
    let named = Params { mode: Some(ModeName::SelfConsistency), ..params() };
    let weighted = planner.plan(&named, 0).expect("a plan");
    assert_eq!(weighted.settings.get(Parameter::VoteLikelihood), Some(Setting::Number(0.1)));
    let settings =
        set(&[(Parameter::Stop, Setting::Choice("fixed")), (Parameter::Vote, Setting::Choice("count"))]);
    let counted = planner.plan(&Params { settings, ..named }, 0).expect("a plan");
    assert_eq!(counted.mode, Mode::vote(16));
    let expected = set(&[
        (Parameter::Branches, Setting::Count(16)),
        (Parameter::Stop, Setting::Choice("fixed")),
        (Parameter::Vote, Setting::Choice("count")),
    ]);
    assert_eq!(counted.settings, expected);
}

#[test]
fn the_report_shows_what_took_the_place_of_what_was_asked_for() {
    let mut bare = planner();
    bare.parts.verifiers = Verifiers::default();
    let shown = |planner: &Planner, mode, parameter, asked| {
        let settings = set(&[(parameter, Setting::Choice(asked))]);
        let plan = planner.plan(&Params { mode: Some(mode), settings, ..params() }, 0).expect("a plan");
        plan.settings.choice(parameter)
    };
    let visits = shown(&planner(), ModeName::Beam, Parameter::Final, "visits");
    let vote = shown(&bare, ModeName::SelfConsistency, Parameter::Vote, "verifier");
    let rank = shown(&bare, ModeName::BestOfN, Parameter::Rank, "verifier");
    let value = shown(&bare, ModeName::Mcts, Parameter::Value, "trajectory");
    assert_eq!([visits, vote, rank, value], ["vote", "count", "likelihood", "rollouts"]);
}

#[test]
fn what_is_reported_asked_for_again_is_the_same_mode() {
    let mut bare = planner();
    bare.parts.verifiers = Verifiers::default();
    for planner in [planner(), bare, changed("vote = \"verifier\"", "vote = \"count\", wave = 9")] {
        for name in ModeName::ALL {
            for own in [0, 330, 1_000, 5_000] {
                let asked = Params { mode: Some(name), max_completion_tokens: some(own), ..params() };
                let first = planner.plan(&asked, 0).expect("a plan");
                let again = Params {
                    mode: Some(first.mode.kind()),
                    settings: first.settings.clone(),
                    temperature: Some(first.sampling.temperature),
                    ..asked
                };
                let again = planner.plan(&again, 0).expect("what is reported can be asked for");
                assert_eq!((again.mode, &again.settings), (first.mode, &first.settings), "{name:?} {own}");
            }
        }
    }
}

#[test]
fn a_request_s_reserve_is_kept_and_stays_below_what_a_choice_may_spend() {
    let with = |reserve, own, n| {
        let budget = BudgetParams { answer_reserve: Some(reserve), ..BudgetParams::default() };
        let plan = plan(&Params { max_completion_tokens: some(own), budget, n, ..params() });
        let reserves: Vec<u32> = plan.choices.iter().map(|budget| budget.reserve).collect();
        (reserves, plan.notes)
    };
    assert_eq!(with(0, 1_000, 1), (vec![0], Vec::new()));
    assert_eq!(with(700, 1_000, 2), (vec![700, 700], Vec::new()), "over a quarter, and over the default");
    assert_eq!(with(999, 1_000, 1), (vec![999], Vec::new()));
    let note = "answer_reserve of 1000 was lowered, as a trajectory has at most 1000 tokens";
    assert_eq!(with(1_000, 1_000, 1), (vec![999], vec![note.to_owned()]));
    // Neither the row's 8,192 tokens nor the context are the client's bounds.
    let room = plan(&params()).choices[0].branch_tokens;
    let note = format!("answer_reserve of 8000 was lowered, as a trajectory has at most {room} tokens");
    assert_eq!(with(8_000, 0, 1), (vec![room - 1], vec![note]));
    let budget = BudgetParams { answer_reserve: Some(9), ..BudgetParams::default() };
    let direct = plan(&Params { budget, ..effort(Effort::None) });
    assert_eq!(direct.choices[0].reserve, 0);
    assert_eq!(
        direct.notes,
        ["answer_reserve of 9 was lowered, as direct has no thought to bring to its answer"]
    );
    let mut bare = settings();
    bare.prompt.answer_marker = None;
    let bare =
        planner_of(bare, caps(2_048, 1 << 16)).plan(&Params { budget, ..params() }, 0).expect("a plan");
    assert_eq!(bare.choices[0].reserve, 0);
    assert_eq!(bare.notes, ["answer_reserve of 9 was lowered, as the model has no answer marker"]);
}

#[test]
fn a_configured_reserve_is_the_most_that_the_default_takes() {
    let lowered = changed("branch_tokens = 160", "branch_tokens = 160\nanswer_reserve = 100");
    let reserve = |planner: &Planner, own, asked| {
        let budget = BudgetParams { answer_reserve: asked, ..BudgetParams::default() };
        let params = Params { max_completion_tokens: some(own), budget, ..params() };
        planner.plan(&params, 0).expect("a plan").choices[0].reserve
    };
    assert_eq!([reserve(&lowered, 1_000, None), reserve(&planner(), 1_000, None)], [100, 250]);
    assert_eq!(reserve(&lowered, 100, None), 25, "it is no more than a quarter");
    assert_eq!(reserve(&lowered, 1_000, Some(300)), 300, "the request rules over it");
    let none = changed("branch_tokens = 160", "branch_tokens = 160\nanswer_reserve = 0");
    assert_eq!(reserve(&none, 1_000, None), 0);
}

#[test]
fn the_reserve_is_a_quarter_up_to_a_limit_and_only_with_a_marker() {
    let reserve = |own| plan(&Params { max_completion_tokens: some(own), ..params() }).choices[0].reserve;
    assert_eq!([1, 3, 4, 100, 1_000].map(reserve), [0, 0, 1, 25, 250]);
    let room = plan(&params()).choices[0].branch_tokens;
    assert_eq!(reserve(1_000_000), (room / 4).min(512), "a quarter of what the context leaves");
    let direct = plan(&effort(Effort::None));
    assert_eq!((direct.choices[0].reserve, direct.marker), (0, None));
    let mut bare = settings();
    bare.prompt.answer_marker = None;
    let bare = planner_of(bare, caps(2_048, 1 << 16)).plan(&params(), 0).expect("a plan");
    assert_eq!((bare.choices[0].reserve, bare.marker, bare.stop.border.clone()), (0, None, None));
}

#[test]
fn the_instruction_is_in_every_prompt_but_direct_s() {
    let instruction = settings().prompt.chain_of_thought;
    let of = |name, content: Option<&str>| {
        let mut params = effort(name);
        if let Some(content) = content {
            params.messages.insert(0, Message { role: "system", content: content.to_owned() });
        }
        text(&plan(&params))
    };
    assert!(!of(Effort::None, None).contains(&instruction));
    let direct = of(Effort::None, Some("Be kind."));
    assert!(direct.contains("Be kind.") && !direct.contains("step by step"));
    for name in [Effort::Low, Effort::High] {
        assert_eq!(of(name, None).matches(&instruction).count(), 1);
        assert!(of(name, Some("Be kind.")).contains(&format!("Be kind.\n\n{instruction}")));
    }
    let lowered = plan(&Params { temperature: Some(0.0), ..effort(Effort::Medium) });
    assert!(text(&lowered).contains(&instruction));
}

/// A planner for a thinking model of a given generation prompt.
fn thinking(source: &str) -> Planner {
    let mut settings = settings();
    settings.prompt.answer_marker = Some("</think>".to_owned());
    settings.prompt.answer_marker_shown = false;
    settings.prompt.thought_opening = Some("<think>".to_owned());
    let mut planner = planner_of(settings, caps(2_048, 1 << 16));
    planner.parts.template = ChatTemplate::new(source, TemplateTokens::default()).expect("Jinja");
    planner
}

#[test]
fn a_direct_answer_has_no_thought_and_any_other_begins_with_one_where_the_prompt_does() {
    let said = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    let of = |end: &str, name| {
        let plan = thinking(&format!("{said}{end}")).plan(&effort(name), 0).expect("a plan");
        let text = text(&plan);
        let end = text.rsplit_once("4?").map(|(_, end)| end.to_owned()).expect("the question");
        assert_eq!(plan.stop.border, plan.marker.as_ref().map(|marker| marker.border.clone()));
        (end, plan.marker.map(|marker| marker.border.opening.is_some()), plan.choices[0].reserve > 0)
    };
    let closed = "\n<think>\n\n</think>\n\n".to_owned();
    // As Qwen3: a switch.
    let switch =
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}";
    assert_eq!(of(switch, Effort::None), (closed.clone(), None, false));
    assert_eq!(of(switch, Effort::Low), ("\n".to_owned(), Some(true), true), "it may yet open one");
    // As the distilled R1: always.
    assert_eq!(of("{{ '<think>\n' }}", Effort::None), (closed, None, false));
    assert_eq!(of("{{ '<think>\n' }}", Effort::Low), ("\n<think>\n".to_owned(), Some(false), true));
    // Nothing is known: what opens one is no answer.
    assert_eq!(of("", Effort::None), ("\n".to_owned(), Some(true), false));
}

#[test]
fn the_instruction_begins_the_user_s_turn_where_a_template_takes_no_system_message() {
    let source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
        <{{ m.role }}>{{ m.content }}\n{% endfor %}";
    let settings = settings();
    let instruction = settings.prompt.chain_of_thought.clone();
    let mut planner = planner_of(settings, caps(2_048, 1 << 16));
    planner.parts.template = ChatTemplate::new(source, TemplateTokens::default()).expect("Jinja");
    let low = planner.plan(&effort(Effort::Low), 0).expect("a plan");
    assert_eq!(text(&low), format!("<user>{instruction}\n\nWhat is 3 + 4?\n"));
    let none = planner.plan(&effort(Effort::None), 0).expect("a plan");
    assert_eq!(text(&none), "<user>What is 3 + 4?\n");
    // What the client wrote itself is the client's.
    let mut own = effort(Effort::Low);
    own.messages.insert(0, Message { role: "system", content: "Be kind.".to_owned() });
    let refused = planner.plan(&own, 0).expect_err("a system message");
    assert_eq!(refused, PlanError::Prompt(PromptError::Refused("no system".to_owned())));
}

#[test]
fn a_text_that_no_tokens_could_make_short_enough_is_not_cut_into_tokens() {
    let longest = tokenizer().longest();
    assert!((4..64).contains(&longest), "{longest}");
    let of = |bytes: usize| {
        let mut params = params();
        params.messages[0].content = "7".repeat(bytes);
        planner().plan(&params, 0).expect_err("too long")
    };
    assert!(matches!(of(4 * 2_048 * longest - 2_000), PlanError::ContextLength { context: 2_048, .. }));
    assert!(matches!(of(4 * 2_048 * longest), PlanError::Bytes { context: 2_048, .. }));
}

#[test]
fn stop_strings_wait_for_the_marker_but_in_direct() {
    let stop = |name| plan(&Params { stop: vec!["x".to_owned()], ..effort(name) }).stop;
    assert_eq!(*stop(Effort::None), StopRule { strings: vec!["x".to_owned()], border: None });
    let border = Border { marker: "The answer is".to_owned(), shown: true, opening: None };
    assert_eq!(stop(Effort::Low).border, Some(border));
    let marker = plan(&params()).marker.expect("the bundled model has one");
    assert!(marker.border.shown && marker.separator == "\n\n");
    let decoded = |ids: &[u32]| tokenizer().decode(ids).expect("ids of this tokenizer");
    assert_eq!(decoded(&marker.inject), "\n\nThe answer is");
    assert_eq!(decoded(&marker.inject_after_separator), "The answer is");
}

#[test]
fn a_seed_is_the_request_s_or_the_drawn_one() {
    let seed = |seed| plan(&Params { seed, ..params() }).seed;
    assert_eq!([seed(Some(5)), seed(Some(-1)), seed(None)], [5, u64::MAX, 77]);
}

#[test]
fn any_positive_deadline_can_be_planned() {
    let deadline = |seconds| {
        let budget = BudgetParams { seconds: Some(seconds), ..BudgetParams::default() };
        plan(&Params { budget, ..params() }).deadline
    };
    assert_eq!(deadline(0.25), Some(Duration::from_millis(250)));
    // Clocks can add it, whatever it was.
    for seconds in [1e9, 1e300, f64::MAX, f64::INFINITY] {
        assert_eq!(deadline(seconds), Some(LONGEST_DEADLINE), "{seconds}");
    }
    assert_eq!(plan(&params()).deadline, None);
}

fn any_params() -> impl Strategy<Value = (Params, usize, usize)> {
    let number = |most: u32| prop::option::of(prop_oneof![1..40u32, 1..most]);
    let bounds = (number(5_000), number(9_000), number(300), number(100), number(6_000));
    let choice =
        (prop::sample::select(&Effort::ALL[..]), prop::option::of(prop::sample::select(&ModeName::ALL[..])));
    let sizes = (1u32..9, prop_oneof![60usize..200, 200usize..2_100], prop_oneof![1usize..60, 1usize..5_000]);
    (bounds, choice, sizes, prop::option::of(0.0f32..2.0), 1usize..60).prop_map(
        |(
            (own, tokens, branches, width, reserve),
            (effort, mode),
            (n, context, blocks),
            temperature,
            words,
        )| {
            let params = Params {
                messages: vec![Message { role: "user", content: "seven ".repeat(words) }],
                effort: Some(effort),
                mode,
                max_completion_tokens: own.and_then(NonZeroU32::new),
                budget: BudgetParams {
                    tokens: tokens.and_then(NonZeroU32::new),
                    branches: branches.and_then(NonZeroU32::new),
                    answer_reserve: reserve,
                    ..BudgetParams::default()
                },
                settings: set(&width
                    .map(|width| (Parameter::Branches, Setting::Count(width)))
                    .into_iter()
                    .collect::<Vec<_>>()),
                n,
                temperature,
                ..params()
            };
            (params, context, blocks)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_keep_every_bound((params, context, blocks) in any_params()) {
        let caps = caps(context, blocks);
        let Ok(plan) = planner_of(settings(), caps.clone()).plan(&params, 1) else { return Ok(()) };
        let total: u64 = tokens(&plan).iter().map(|&tokens| u64::from(tokens)).sum();
        let made: u64 = plan.choices.iter().map(|budget| u64::from(budget.branches)).sum();
        let most = |bound: Option<NonZeroU32>| bound.map_or(u64::MAX, |bound| u64::from(bound.get()));
        prop_assert!(total <= most(params.budget.tokens));
        prop_assert!(made <= most(params.budget.branches));
        prop_assert_eq!(plan.choices.len(), params.n as usize);
        for budget in &plan.choices {
            prop_assert!(u64::from(budget.tokens) <= most(params.max_completion_tokens));
            prop_assert!(budget.reserve < budget.tokens && budget.reserve < budget.branch_tokens);
            prop_assert!(params.budget.answer_reserve.is_none_or(|asked| budget.reserve <= asked));
            prop_assert!(plan.mode.branches().is_none_or(|own| budget.branches == own));
            let longest = context.min(caps.longest(plan.prompt.len()));
            prop_assert_eq!(budget.branch_tokens as usize, longest - plan.prompt.len());
        }
        prop_assert_eq!(&plan.settings, &plan.mode.settings());
        prop_assert!(!plan.mode.selects() || plan.mode.branches() != Some(1));
        prop_assert!(plan.positions > plan.prompt.len() && plan.positions <= context);
        prop_assert!(plan.live >= 1 && plan.live as u64 <= made);
        prop_assert!(caps.blocks_for(plan.prompt.len(), plan.positions, 1) <= blocks);
        let usual = plan.positions.min(plan.prompt.len() + 2 * settings().plan.branch_tokens as usize);
        let needs = |width| caps.blocks_for(plan.prompt.len(), usual, width);
        // Of beams only the wide ones are charged in full, and their candidates' steps.
        let shared = match plan.mode {
            Mode::Beam(beam) => {
                let steps = (1 + beam.lookahead as usize) * (settings().plan.branch_tokens as usize).div_ceil(2);
                let own = (steps.div_ceil(16) + 1).min(needs(1) - needs(0));
                let width = beam.width as usize;
                prop_assert!(needs(width) + width * beam.expansion as usize * own <= blocks);
                params.n > 1 || needs(width) + plan.live.saturating_sub(width) * own <= blocks
            }
            _ => false,
        };
        prop_assert!(plan.live == 1 || shared || needs(plan.live) <= blocks);
    }
}
