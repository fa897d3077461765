//! Accuracy against generated tokens, as an SVG text.
//!
//! One point per arm with its interval, labelled where nothing is in the way; the
//! arms of a series are joined. Colours are those of Okabe and Ito, which stay
//! apart for every eye. Interaction and other charts are deliberately absent.

use super::table::ArmSummary;
use std::fmt::Write as _;

/// The picture, and the area of the chart in it, in pixels.
const SIZE: (f64, f64) = (900.0, 660.0);
const AREA: Box = Box { left: 70.0, top: 56.0, right: 876.0, bottom: 600.0 };

/// The width of a character of a label, about, and the height of its line.
const GLYPH: (f64, f64) = (7.0, 14.0);

/// Colours of series, in their order; what is in no series is the first.
const COLOURS: [&str; 7] = ["#333333", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

#[derive(Debug, Clone, Copy)]
struct Box {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Box {
    fn meets(&self, other: &Box) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn within(&self, other: &Box) -> bool {
        self.left >= other.left
            && self.right <= other.right
            && self.top >= other.top
            && self.bottom <= other.bottom
    }
}

/// What is drawn of an arm.
struct Point<'a> {
    label: &'a str,
    series: Option<&'a str>,
    x: f64,
    y: f64,
    low: f64,
    high: f64,
}

/// The chart of these arms. One that generated nothing has no place on a
/// logarithmic axis and is named below it.
pub(super) fn svg(arms: &[ArmSummary]) -> String {
    let (shown, absent): (Vec<_>, Vec<_>) = arms.iter().partition(|arm| arm.tokens.mean > 0.0);
    let tokens = || shown.iter().map(|arm| arm.tokens.mean);
    let rows = || shown.iter().map(|arm| arm.all());
    // A margin on both sides, so that one point alone has an axis as well.
    let from = tokens().fold(f64::INFINITY, f64::min).min(1e12) / 1.6;
    let to = (tokens().fold(0.0, f64::max) * 2.0).max(from * 4.0);
    let bottom = (rows().map(|row| row.low).fold(90.0, f64::min) / 10.0).floor() * 10.0;
    let top = ((rows().map(|row| row.high).fold(bottom, f64::max) / 10.0).ceil() * 10.0).max(bottom + 10.0);
    let x = |tokens: f64| AREA.left + (tokens / from).ln() / (to / from).ln() * (AREA.right - AREA.left);
    let y = |percent: f64| AREA.bottom - (percent - bottom) / (top - bottom) * (AREA.bottom - AREA.top);
    let point = |arm: &&'_ ArmSummary| -> (f64, f64, f64, f64) {
        let row = arm.all();
        (x(arm.tokens.mean), y(row.percent), y(row.low), y(row.high))
    };
    let points: Vec<Point<'_>> = shown
        .iter()
        .map(|arm| {
            let (x, y, low, high) = point(arm);
            Point { label: &arm.label, series: arm.series.as_deref(), x, y, low, high }
        })
        .collect();

    let mut out = String::new();
    let (width, height) = SIZE;
    let mut add = |line: String| {
        let _infallible = writeln!(out, "{line}");
    };
    add(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13" fill="{0}">"#,
        COLOURS[0]
    ));
    add(r#"<rect width="100%" height="100%" fill="white"/>"#.to_owned());
    let middle = f64::midpoint(AREA.left, AREA.right);
    add(text(middle, 30.0, "middle", "Right answers against generated tokens per problem"));
    let step = if top - bottom > 60.0 { 20.0 } else { 10.0 };
    for tick in multiples(step, bottom, top) {
        add(rule((AREA.left, y(tick)), (AREA.right, y(tick)), "#e4e4e4"));
        add(text(AREA.left - 8.0, y(tick) + 4.5, "end", &format!("{tick:.0} %")));
    }
    for tick in ticks(from, to) {
        add(rule((x(tick), AREA.top), (x(tick), AREA.bottom), "#e4e4e4"));
        add(text(x(tick), AREA.bottom + 20.0, "middle", &thousands(tick)));
    }
    add(rule((AREA.left, AREA.bottom), (AREA.right, AREA.bottom), COLOURS[0]));
    add(rule((AREA.left, AREA.top), (AREA.left, AREA.bottom), COLOURS[0]));
    let caption = "generated tokens per problem, over all branches (logarithmic); bars are 95 % intervals";
    add(text(middle, AREA.bottom + 44.0, "middle", caption));
    if !absent.is_empty() {
        let names: Vec<&str> = absent.iter().map(|arm| arm.label.as_str()).collect();
        let line = format!("without tokens, not shown: {}", names.join(", "));
        add(text(middle, 46.0, "middle", &line));
    }
    draw(&points, &mut add);
    out += "</svg>\n";
    out
}

/// Lines of series, then points and bars, then labels on top.
fn draw(points: &[Point<'_>], add: &mut impl FnMut(String)) {
    let mut series: Vec<&str> = Vec::new();
    for name in points.iter().filter_map(|point| point.series) {
        if !series.contains(&name) {
            series.push(name);
        }
    }
    let colour = |point: &Point<'_>| {
        let place = point.series.and_then(|name| series.iter().position(|other| *other == name));
        place.map_or(COLOURS[0], |place| COLOURS[1 + place % (COLOURS.len() - 1)])
    };
    for name in &series {
        let mut of: Vec<&Point<'_>> = points.iter().filter(|point| point.series == Some(name)).collect();
        of.sort_by(|a, b| a.x.total_cmp(&b.x));
        for two in of.windows(2) {
            add(rule((two[0].x, two[0].y), (two[1].x, two[1].y), colour(two[0])));
        }
    }
    let mut taken: Vec<Box> = Vec::new();
    for point in points {
        let colour = colour(point);
        let Point { x, y, low, high, .. } = *point;
        add(rule((x, low), (x, high), colour));
        for end in [low, high] {
            add(rule((x - 4.0, end), (x + 4.0, end), colour));
        }
        add(format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="4.5" fill="{colour}"/>"#));
        taken.push(Box { left: x - 5.0, top: y - 5.0, right: x + 5.0, bottom: y + 5.0 });
    }
    let bars: Vec<Box> = points
        .iter()
        .map(|p| Box { left: p.x - 4.0, top: p.high - 1.0, right: p.x + 4.0, bottom: p.low + 1.0 })
        .collect();
    for point in points {
        let place = room(point, &taken, &bars);
        // A halo keeps a label legible where it crosses a line.
        let halo =
            format!(r#" fill="{}" stroke="white" stroke-width="3" paint-order="stroke""#, colour(point));
        let label = text(place.left, place.bottom - 3.5, "start", point.label);
        add(label.replacen("<text", &format!("<text{halo}"), 1));
        taken.push(place);
    }
}

/// Where a label goes: the first place near its point that is free of points,
/// labels and bars; failing that, of points and labels; failing that, beside it.
fn room(point: &Point<'_>, taken: &[Box], bars: &[Box]) -> Box {
    let width = GLYPH.0 * point.label.chars().count() as f64;
    let at = |left: f64, middle: f64| Box {
        left,
        right: left + width,
        top: middle - GLYPH.1 / 2.0,
        bottom: middle + GLYPH.1 / 2.0,
    };
    let beside = at(point.x + 9.0, point.y);
    let places: Vec<Box> = (0..24)
        .flat_map(|i| {
            let up = f64::from((i + 1) / 2) * 8.0 * if i % 2 == 0 { 1.0 } else { -1.0 };
            [at(point.x + 9.0, point.y + up), at(point.x - 9.0 - width, point.y + up)]
        })
        .filter(|place| place.within(&AREA))
        .collect();
    let free = |place: &&Box, others: &[Box]| !others.iter().any(|other| place.meets(other));
    let best = places.iter().find(|place| free(place, taken) && free(place, bars));
    *best.or_else(|| places.iter().find(|place| free(place, taken))).unwrap_or(&beside)
}

fn rule(from: (f64, f64), to: (f64, f64), colour: &str) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    format!(
        r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="1.5"/>"#
    )
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(text))
}

/// Text as XML has it; what XML cannot hold at all becomes the replacement character.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if (c < ' ' && !['\t', '\n'].contains(&c)) || ['\u{FFFE}', '\u{FFFF}'].contains(&c) => {
                out.push('\u{FFFD}')
            }
            c => out.push(c),
        }
    }
    out
}

/// Multiples of a step between two bounds, both included.
fn multiples(step: f64, from: f64, to: f64) -> impl Iterator<Item = f64> {
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(move |n| n as f64 * step)
}

/// 1, 2 and 5 times powers of ten between two bounds; the powers alone where
/// those would crowd.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let powers = from.log10().floor() as i32..=to.log10().ceil() as i32;
    let steps: &[f64] = if to / from > 3e4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    all.filter(|tick| (from..=to).contains(tick)).collect()
}

/// A number with a comma between its thousands.
fn thousands(number: f64) -> String {
    if number < 1.0 {
        return format!("{number}");
    }
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::arm::{Arm, parse};
    use super::super::record::Record;
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// An arm of 100 problems with so many right, at so many tokens each.
    fn summary(label: &str, series: Option<&str>, (right, tokens): (usize, u64)) -> ArmSummary {
        let series = series.map(str::to_owned);
        let arm = Arm { label: label.to_owned(), series, ..parse("x={}").unwrap() };
        let record = |i: usize| Record {
            id: i.to_string(),
            right: i < right,
            tokens: Some(tokens),
            ..Record::default()
        };
        ArmSummary::of(&arm, None, &(0..100).map(record).collect::<Vec<_>>())
    }

    /// What a strict reader finds: the elements' names, and the texts.
    fn parsed(svg: &str) -> String {
        let script = "import sys, xml.etree.ElementTree as t\n\
            r = t.fromstring(sys.stdin.buffer.read())\n\
            n = '{http://www.w3.org/2000/svg}'\n\
            assert r.tag == n + 'svg', r.tag\n\
            print(len(r.findall(n + 'circle')), [e.text for e in r.findall(n + 'text')])";
        let mut python = Command::new("python3")
            .args(["-c", script])
            .env("PYTHONIOENCODING", "utf-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed, which this test needs");
        python.stdin.take().unwrap().write_all(svg.as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{svg}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_chart_is_strict_xml_with_every_arm_on_it() {
        let arms = [
            summary("low", Some("effort"), (60, 100)),
            summary("high", Some("effort"), (80, 3_000)),
            summary("<b> & \"c\"\u{FFFF}", None, (70, 900)),
            summary("silent", None, (0, 0)),
        ];
        let found = parsed(&svg(&arms));
        assert!(found.starts_with("3 ["), "{found}");
        for text in ["'low'", "'high'", "'<b> & \"c\"\u{FFFD}'", "'1,000'", "'80 %'", "not shown: silent"] {
            assert!(found.contains(text), "{text} in {found}");
        }
    }

    /// The numbers of every element of that name.
    fn numbers(svg: &str, name: &str) -> Vec<Vec<f64>> {
        let lines = svg.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.split('"').filter_map(|part| part.parse().ok()).collect()).collect()
    }

    #[test]
    fn every_point_has_a_bar_from_one_end_of_its_interval_to_the_other() {
        let arms = [summary("a", None, (50, 10)), summary("b", None, (90, 10_000))];
        let svg = svg(&arms);
        let (circles, lines) = (numbers(&svg, "<circle"), numbers(&svg, "<line"));
        // Pixels to a point of a percentage.
        let scale = (circles[0][1] - circles[1][1]) / 40.0;
        for (circle, arm) in circles.iter().zip(&arms) {
            let (x, row) = (circle[0], arm.all());
            let [low, high] = [row.low, row.high].map(|percent| circle[1] - (percent - row.percent) * scale);
            assert!(low > circle[1] && circle[1] > high, "{row:?}");
            for bar in [[x, low, x, high], [x - 4.0, low, x + 4.0, low], [x - 4.0, high, x + 4.0, high]] {
                let is = |line: &&Vec<f64>| line.iter().zip(bar).all(|(a, b)| (a - b).abs() < 0.2);
                assert_eq!(lines.iter().filter(is).count(), 1, "{bar:?} in {svg}");
            }
        }
    }

    #[test]
    fn more_tokens_lie_right_and_more_right_answers_above() {
        let svg = svg(&[summary("a", None, (50, 10)), summary("b", None, (90, 10_000))]);
        let circles = numbers(&svg, "<circle");
        assert!(circles[0][0] < circles[1][0] && circles[0][1] > circles[1][1], "{circles:?}");
        for circle in &circles {
            assert!(
                Box { left: circle[0], right: circle[0], top: circle[1], bottom: circle[1] }.within(&AREA)
            );
        }
    }

    #[test]
    fn labels_keep_out_of_each_others_way() {
        let arms: Vec<ArmSummary> = (0..8)
            .map(|i| summary(&format!("arm number {i}"), None, (70 + i / 4, 1_000 + i as u64)))
            .collect();
        let svg = svg(&arms);
        let boxes: Vec<Box> = svg
            .lines()
            .filter(|line| line.contains(">arm number"))
            .map(|line| {
                let number = |name: &str| -> f64 {
                    line.split(&format!(" {name}=\""))
                        .nth(1)
                        .unwrap()
                        .split('"')
                        .next()
                        .unwrap()
                        .parse()
                        .unwrap()
                };
                let (x, y) = (number("x"), number("y"));
                Box { left: x, right: x + 12.0 * GLYPH.0, top: y - 10.5, bottom: y + 3.5 }
            })
            .collect();
        assert_eq!(boxes.len(), 8);
        for (i, a) in boxes.iter().enumerate() {
            assert!(a.within(&AREA) && !boxes[..i].iter().any(|b| a.meets(b)), "{svg}");
        }
    }

    #[test]
    fn a_chart_of_nothing_and_one_of_a_single_point_are_charts() {
        assert!(parsed(&svg(&[])).starts_with("0 ["));
        assert!(parsed(&svg(&[summary("silent", None, (0, 0))])).starts_with("0 ["));
        assert!(parsed(&svg(&[summary("one", None, (100, 1))])).contains("'one'"));
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(70.0, 1_200.0), [100.0, 200.0, 500.0, 1_000.0]);
        assert_eq!(ticks(1.5, 2e5), [10.0, 100.0, 1_000.0, 10_000.0, 100_000.0]);
        assert_eq!(["0.5", "20", "1,000", "1,234,567"], [0.5, 20.0, 1e3, 1_234_567.0].map(thousands));
    }
}
