//! Words behind a value that leave it as it is, taken away: units and counted things.
//!
//! Votes meet under what is left, so a word goes only where it is known to say nothing:
//! a unit, or the plural of a thing that is counted. `12:30\text{ AM}`, `3\text{ dozen}`
//! and `1\text{ if odd}` keep theirs. A share keeps its `%`; thousands and more are
//! factors. That one unit is another (`5\text{ m}` and `5\text{ cm}`) is not seen: the
//! answers to one question have one unit.

/// Units, marked as text or not. No single letters: `5 m` may be a product.
const UNITS: &str = "
    mm cm km in ft mi mg kg lb lbs oz ml mL mph kph sq
    inch inches foot feet yard yards mile miles
    meter meters metre metres millimeter millimeters millimetre millimetres
    centimeter centimeters centimetre centimetres kilometer kilometers kilometre kilometres
    gram grams milligram milligrams kilogram kilograms ton tons tonnes pound pounds ounce ounces
    liter liters litre litres milliliter milliliters gallon gallons quart quarts pint pints
    cup cups teaspoon teaspoons tablespoon tablespoons acre acres
    second seconds minute minutes hour hours day days week weeks month months year years
    dollar dollars cent cents euros joules newtons watts volts
    degree degrees celsius fahrenheit radian radians
    unit units square cubic point points person people student students way ways";

/// Units where they are marked as text or stand below another. No `N` or `W`, which are
/// also north and west, and no `K`, which is also a thousand.
const SYMBOLS: &str = "
    m dm nm yd g s ms min mins sec secs h hr hrs yr yrs l L gal cu
    C F J kJ V eV Hz Pa mol rad rpm USD";

/// Plurals that do not end like one.
const PLURALS: &str = "children men women dice sheep fish mice geese teeth pence";

/// Words that change the number before them, or say when it holds. Two letters never
/// name a thing, so none of two is here.
const TELLING: &str = "
    and nor not for from with without than then when where unless per each every either neither
    both all only one two three four five six seven eight nine ten half third quarter
    dozen hundred thousand million billion trillion double triple twice
    tens dozens hundreds thousands millions billions trillions
    halves thirds quarters fourths fifths sixths sevenths eighths ninths tenths elevenths
    twelfths hundredths thousandths percent percentage
    more most less least fewer over under above below before after past ago extra additional other others
    otherwise perhaps always sometimes remainder base mod modulo even odd negative
    left right north south east west northeast northwest southeast southwest
    clockwise counterclockwise anticlockwise upwards downwards forwards backwards inwards outwards";

/// Words that are factors of ten to a power.
const SCALES: &[(&str, u32)] = &[("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)];

/// The most words that name one thing, as in `\text{ small red marbles}`.
const LONGEST_NAME: usize = 3;

/// What the words behind a value are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unit,
    /// What a number counts.
    Thing,
    Share,
    /// A factor of ten to this power.
    Scale(u32),
}

/// The value before units on its right; a share keeps its `%`.
pub(super) fn without_units(text: &str) -> String {
    let text = text.trim();
    let (mut kept, mut rest) = (text, text);
    let mut below = false;
    while let Some(word) = last_word(rest) {
        let before = word.before.trim_end();
        match word.kind() {
            Some(Kind::Share) if rest == text && ends_value(before, &word) => return format!("{before}%"),
            Some(Kind::Scale(power)) if !below && is_decimal(before) => {
                return format!("{before}\\times 10^{{{power}}}");
            }
            Some(Kind::Unit | Kind::Thing) => {}
            Some(Kind::Share | Kind::Scale(_)) | None => break,
        }
        // What a unit is divided by goes only together with that unit.
        let above = divided(before);
        below = above.is_some();
        rest = above.unwrap_or(before);
        if !below && ends_value(rest, &word) {
            kept = rest;
        }
    }
    kept.to_owned()
}

/// What stands before a slash or a "per".
fn divided(before: &str) -> Option<&str> {
    before.strip_suffix('/').or_else(|| before.strip_suffix(" per")).map(str::trim_end)
}

/// The last words of a text, without their power.
struct Word<'a> {
    before: &'a str,
    spelled: &'a str,
    /// Whether they are marked as text. If not, it is one word.
    marked: bool,
}

fn last_word(text: &str) -> Option<Word<'_>> {
    let bare = ["^2", "^3", "^{2}", "^{3}"].iter().find_map(|p| text.strip_suffix(p)).unwrap_or(text);
    let bare = bare.trim_end().trim_end_matches(['.', '~']).trim_end();
    for command in ["\\text{", "\\mathrm{", "\\mbox{", "\\textrm{"] {
        if let Some(inside) = bare.strip_suffix('}')
            && let Some(at) = inside.rfind(command)
            && !inside[at + command.len()..].contains(['{', '}'])
        {
            let spelled = inside[at + command.len()..].trim();
            let word = Word { before: &bare[..at], spelled, marked: true };
            return (at > 0 && !spelled.is_empty()).then_some(word);
        }
    }
    let letters = bare.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
    let (before, spelled) = bare.split_at(letters);
    (!before.is_empty() && !spelled.is_empty()).then_some(Word { before, spelled, marked: false })
}

impl Word<'_> {
    /// What the words are; `None` where they may be part of the answer.
    fn kind(&self) -> Option<Kind> {
        let below = divided(self.before.trim_end()).is_some();
        // `5cm` without a space may be a product.
        if !self.marked && !below && !self.before.ends_with(char::is_whitespace) {
            return None;
        }
        if matches!(self.spelled, "percent" | "per cent") {
            return Some(Kind::Share);
        }
        if !self.marked {
            let unit = is_unit(self.spelled) || (below && among(SYMBOLS, self.spelled));
            return if unit { Some(Kind::Unit) } else { scale(self.spelled) };
        }
        let (first, others) = self.spelled.split_once(' ').unwrap_or((self.spelled, ""));
        match scale(first) {
            scale @ Some(_) => scale.filter(|_| others.is_empty() || are_units(others) || is_thing(others)),
            None if are_units(self.spelled) => Some(Kind::Unit),
            None => is_thing(self.spelled).then_some(Kind::Thing),
        }
    }
}

fn among(words: &str, word: &str) -> bool {
    words.split_ascii_whitespace().any(|other| other == word)
}

fn scale(word: &str) -> Option<Kind> {
    SCALES.iter().find(|(name, _)| *name == word).map(|(_, power)| Kind::Scale(*power))
}

fn is_unit(word: &str) -> bool {
    among(UNITS, word) || (word.len() > 3 && among(UNITS, &word.to_ascii_lowercase()))
}

/// Whether marked words are units, as in `km/h` and `miles per hour`.
fn are_units(words: &str) -> bool {
    let unit = |word: &str| {
        let word = word.trim_end_matches('.');
        let word = word.strip_suffix("^2").or_else(|| word.strip_suffix("^3")).unwrap_or(word);
        is_unit(word) || among(SYMBOLS, word)
    };
    let mut units = words.split([' ', '/']).filter(|word| !matches!(*word, "" | "per")).peekable();
    units.peek().is_some() && units.all(unit)
}

/// Whether marked words name things that are counted, and none of them tells more.
fn is_thing(words: &str) -> bool {
    let mut names = words.split_ascii_whitespace();
    let plain = |word: &str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_lowercase());
    let plural = |word: &str| {
        let ending = word.ends_with('s') && !["ss", "us", "is"].iter().any(|end| word.ends_with(end));
        (word.len() > 3 && ending) || among(PLURALS, word)
    };
    names.clone().count() <= LONGEST_NAME
        && names.clone().last().is_some_and(plural)
        && names.all(|word| plain(word) && !among(TELLING, word))
}

/// Whether a text is a value that words may stand behind.
fn ends_value(text: &str, word: &Word<'_>) -> bool {
    // `\text{Alice}\text{ wins}` counts nothing.
    if word.kind() == Some(Kind::Thing) && !text.contains(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let closed = text.ends_with(|c: char| c.is_ascii_digit() || matches!(c, '}' | ')' | ']' | '!'));
    let before = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    match &text[before.len()..] {
        "" => closed,
        command if before.ends_with('\\') => command == "pi",
        unknown => word.marked && unknown.len() == 1 && word.kind() == Some(Kind::Unit),
    }
}

fn is_decimal(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::super::{canonical, equiv};

    #[test]
    fn units_and_things_say_nothing() {
        for (value, spellings) in [
            (
                "5",
                &[
                    "5\\text{ cm}",
                    "5\\,\\mathrm{cm}^2",
                    "5\\text{ cm^3}",
                    "5 \\mbox{ in.}",
                    "5 square cm",
                    "5\\text{ sq. ft.}",
                    "5\\text{ m}",
                    "5\\text{ Dollars}",
                    "5\\text{ apples}",
                    "5\\text{ candy bars}",
                    "5\\text{ children}",
                    "5\\text{ cup}",
                    "5^\\circ\\text{C}",
                    "5\\text{ inches}.",
                ][..],
            ),
            (
                "60",
                &[
                    "60\\,\\text{km/h}",
                    "60\\ \\mathrm{m/s}",
                    "60\\ \\mathrm{m/s^2}",
                    "60 miles per hour",
                    "60 km/h",
                    "60\\text{ miles per hour}",
                    "60\\,\\text{km}/\\text{h}",
                    "60\\text{ dollars per square foot}",
                ],
            ),
            (
                "4\\pi",
                &["4\\pi \\text{ cm}^2", "4\\pi\\ \\text{cm}^2", "4\\pi\\,\\mathrm{cm}^3", "4\\pi cm^2"],
            ),
            ("x", &["x\\text{ cm}"]),
            ("2\\sqrt{3}", &["2\\sqrt{3}\\text{ units}", "2\\sqrt3 units"]),
            ("5%", &["5\\text{ percent}", "5 percent", "5\\text{ per cent}"]),
            ("5000000", &["5\\text{ million}", "5 million dollars", "5\\text{ million people}"]),
            ("2500", &["2.5\\text{ thousand}"]),
        ] {
            for spelling in spellings {
                assert_eq!(canonical(spelling), canonical(value), "{spelling}");
            }
        }
    }

    #[test]
    fn words_that_tell_more_stay() {
        for (a, b) in [
            ("2", "2\\mathrm{i}"),
            ("2", "2\\mathrm{e}"),
            ("12:30\\text{ AM}", "12:30\\text{ PM}"),
            ("8\\text{ a.m.}", "8\\text{ p.m.}"),
            ("8\\text{ am}", "8\\text{ pm}"),
            ("7\\text{ remainder 2}", "7\\text{ remainder 3}"),
            ("7", "7\\text{ R }2"),
            ("5", "5\\text{ million}"),
            ("5", "5\\text{ hundreds}"),
            ("3", "3\\text{ dozen}"),
            ("3", "3\\text{ fifths}"),
            ("3", "3\\text{ more apples}"),
            ("1\\text{ if odd}", "1\\text{ if even}"),
            ("40^\\circ\\text{ N}", "40^\\circ\\text{ S}"),
            ("40^\\circ", "40^\\circ\\text{ N}"),
            ("5\\text{ miles north}", "5\\text{ miles south}"),
            ("5\\text{ km W}", "5\\text{ km}"),
            ("5", "5\\text{th}"),
            ("5", "5\\text{ at least}"),
            ("5", "5\\text{K}"),
            ("3", "3\\text{ (mod 7)}"),
            ("101\\text{ base 2}", "101\\text{ base 3}"),
            ("\\text{Alice}\\text{ wins}", "\\text{Alice}\\text{ loses}"),
            ("A\\text{ wins}", "A\\text{ loses}"),
            ("60 per hour", "60"),
            ("5 m/s", "5"),
            ("5cm", "5"),
            ("x/\\text{h}", "x"),
        ] {
            assert!(!equiv(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn a_form_without_units_is_its_own() {
        for text in
            ["5\\text{ million}", "60\\text{ km}/\\text{h}", "7\\text{ if odd}", "5\\text{ cm}\\text{ N}"]
        {
            let form = canonical(text);
            assert_eq!(canonical(&form), form, "{text}");
        }
    }
}
