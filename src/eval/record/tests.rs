//! Results of earlier runs: whole, torn, failed, and of something else.

use super::super::arm::{self, Arm};
use super::super::suite::{self, Placed};
use super::super::tests::args;
use super::super::{Asking, ask};
use super::*;
use std::fs;

/// Two problems, asked under two seeds by one arm with these fields.
struct Run {
    folder: tempfile::TempDir,
    arm: Arm,
    problems: Vec<Placed>,
}

impl Run {
    fn new(fields: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line = |id: &str| {
            format!(
                "{{\"id\":\"{id}\",\"problem\":\"?\",\"answer\":\"1\",\"check\":{{\"kind\":\"answer\"}}}}\n"
            )
        };
        fs::write(folder.path().join("suite"), [line("p"), line("q")].concat()).unwrap();
        let problems = suite::read(&folder.path().join("suite"), None, &[]).unwrap();
        Self { folder, arm: arm::parse(&format!("x={fields}")).unwrap(), problems }
    }

    fn asking(&self) -> Vec<Asking<'_>> {
        ask::all(&args(&["--seeds", "1,2"]), ("here", None), &self.arm, &self.problems)
    }

    fn open(&self) -> Result<Store, EvalError> {
        Store::open(Some(self.folder.path()), &self.asking().iter().collect::<Vec<_>>())
    }

    fn file(&self) -> String {
        fs::read_to_string(self.folder.path().join(NAME)).unwrap()
    }

    fn record(&self, place: usize) -> Record {
        let asking = self.asking();
        let (arm, id, seed) = asking[place].key();
        let fingerprint = asking[place].fingerprint.clone();
        Record { arm, id, seed, fingerprint, seconds: 0.1 + place as f64, ..Record::default() }
    }

    /// How many of the requests have a response.
    fn kept(&self) -> usize {
        self.open().unwrap().answered(&self.asking().iter().collect::<Vec<_>>())
    }
}

#[test]
fn what_was_written_is_there_again_and_in_order_at_the_end() {
    let run = Run::new("{}");
    let mut store = run.open().unwrap();
    for place in [3, 0, 1] {
        store.add(run.record(place)).unwrap();
    }
    assert_eq!(run.file().lines().count(), 3, "each is in the file at once");
    let asking = run.asking();
    let store = run.open().unwrap();
    let (found, open) = store.split(&asking);
    assert_eq!(found, [0, 1, 3].map(|place| run.record(place)));
    assert_eq!(open.iter().map(|one| one.key()).collect::<Vec<_>>(), [asking[2].key()]);
    store.finish(&asking.iter().collect::<Vec<_>>()).unwrap();
    let file = run.file();
    let written: Vec<Record> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written, [0, 1, 3].map(|place| run.record(place)));
}

#[test]
fn a_torn_last_line_is_dropped_wherever_it_was_torn() {
    let run = Run::new("{}");
    let mut store = run.open().unwrap();
    store.add(run.record(0)).unwrap();
    let whole = run.file();
    store.add(run.record(1)).unwrap();
    let both = run.file();
    for end in whole.len()..both.len() {
        fs::write(run.folder.path().join(NAME), &both[..end]).unwrap();
        // Without its line break alone, a record is whole.
        assert_eq!(run.kept(), if end == both.len() - 1 { 2 } else { 1 }, "{end}");
        // What is added next begins a line of its own.
        run.open().unwrap().add(run.record(2)).unwrap();
        assert_eq!(run.kept(), if end == both.len() - 1 { 3 } else { 2 }, "{end}");
    }
}

#[test]
fn a_line_that_is_no_record_is_named_and_nothing_is_lost() {
    let run = Run::new("{}");
    run.open().unwrap().add(run.record(0)).unwrap();
    let odd = format!("{}{{\"arm\":\n{}", run.file(), run.file());
    fs::write(run.folder.path().join(NAME), &odd).unwrap();
    let error = run.open().unwrap_err().to_string();
    assert!(error.contains("line 2 is no result"), "{error}");
    assert_eq!(run.file(), odd);
}

#[test]
fn failures_are_asked_again_and_other_arms_kept() {
    let run = Run::new("{}");
    let mut store = run.open().unwrap();
    let failed = |record: Record| Record { error: Some("500: no".to_owned()), ..record };
    let other = failed(Record { arm: "other".to_owned(), ..run.record(0) });
    store.add(run.record(0)).unwrap();
    store.add(failed(run.record(1))).unwrap();
    store.add(other.clone()).unwrap();
    assert_eq!(run.kept(), 1);
    assert_eq!(run.file().lines().count(), 2);
    assert_eq!(serde_json::from_str::<Record>(run.file().lines().last().unwrap()).unwrap(), other);
}

#[test]
fn another_request_under_the_same_names_is_refused() {
    let run = Run::new(r#"{"temperature":0.5}"#);
    run.open().unwrap().add(run.record(0)).unwrap();
    let file = run.file();
    let hotter = Run { arm: arm::parse(r#"x={"temperature":0.6}"#).unwrap(), ..run };
    let error = hotter.open().unwrap_err().to_string();
    assert!(error.contains("the response of arm 'x' to p with seed 1 answers another request"), "{error}");
    assert_eq!(hotter.file(), file);
}

#[test]
fn a_fingerprint_knows_the_server_the_request_and_the_grading() {
    let mut run = Run::new("{}");
    let print = |run: &Run, server: &str, words: &[&str]| {
        let asking = ask::all(&args(words), (server, None), &run.arm, &run.problems);
        asking[0].fingerprint.clone()
    };
    let usual = print(&run, "here", &[]);
    assert_eq!(usual, print(&run, "here", &[]));
    for other in [
        print(&run, "there", &[]),
        print(&run, "here", &["--temperature", "1"]),
        print(&run, "here", &["--system", "Box it."]),
        print(&run, "here", &["--seeds", "7"]),
    ] {
        assert_ne!(usual, other);
    }
    run.problems[0].1.answer = "2".to_owned();
    assert_ne!(usual, print(&run, "here", &[]));
    // FNV-1a of nothing is its offset basis.
    assert_eq!(fingerprint(&[]), "cbf29ce484222325");
    assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
}
