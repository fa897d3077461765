//! The known name that a misspelt one was probably meant to be.

/// How alike two names must be, from 0 to 1, for one to be suggested.
const ALIKE: f64 = 0.6;

/// The name among `known` that is most like `given`, if any is like it: by edit
/// distance with transpositions, relative to the longer name's length. Capitals
/// and the two ways to join words make no difference.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let given = plain(given);
    known
        .map(|name| (strsim::normalized_damerau_levenshtein(&given, &plain(name)), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_of_the_fingers_are_recognised_and_other_words_are_not() {
        let known = ["port", "host", "kv_mib", "threads"];
        for (given, meant) in [
            ("prot", "port"),
            ("Port", "port"),
            ("kv-mib", "kv_mib"),
            ("kv_mb", "kv_mib"),
            ("thread", "threads"),
        ] {
            assert_eq!(nearest(given, known.into_iter()), Some(meant), "{given}");
        }
        assert_eq!(nearest("colour", known.into_iter()), None);
    }
}
