//! A panel for each axis, a line for each phase, both scales logarithmic.

use handoff_svg::{Font, Svg};

use crate::report::{Axis, COLUMNS};

pub(crate) fn svg(axes: &[Axis]) -> String {
    let legend = PANEL * axes.len() as f64;
    let mut svg = Svg::default();
    for (nth, axis) in axes.iter().enumerate() {
        panel(&mut svg, axis, PANEL * nth as f64);
    }
    for (nth, (column, colour)) in COLUMNS.iter().zip(COLOURS).enumerate() {
        let (x, y) = (legend + 10.0, TOP + 20.0 * nth as f64);
        svg.line((x, y), (x + 20.0, y), &stroke(colour));
        svg.text((x + 26.0, y + 4.0), TEXT, column);
    }
    svg.finish("What each phase of a swap takes, against its size", legend + LEGEND, HEIGHT)
}

fn panel(svg: &mut Svg, axis: &Axis, left: f64) {
    let values: Vec<f64> = axis.points.iter().map(|point| (point.value as f64).log10()).collect();
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return };
    let (left, right) = (left + LEFT, left + PANEL - RIGHT);
    let x = |value: f64| {
        let share = if last > first { (value - first) / (last - first) } else { 0.5 };
        left + share * (right - left)
    };
    let y = |ms: f64| {
        let share = (ms.max(10_f64.powf(MIN_POWER)).log10() - MIN_POWER) / (MAX_POWER - MIN_POWER);
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    };
    svg.text((left, 24.0), TEXT.bold(), &format!("ms against {}", axis.name));
    for power in MIN_POWER as i32..=MAX_POWER as i32 {
        let ms = 10_f64.powi(power);
        svg.line((left, y(ms)), (right, y(ms)), r##"stroke="#dddddd""##);
        svg.text((left - 6.0, y(ms) + 4.0), GREY.ending(), &ms.to_string());
    }
    for (point, value) in axis.points.iter().zip(&values) {
        let label = (axis.label)(point.value);
        svg.text((x(*value), HEIGHT - BOTTOM + 18.0), GREY.centred(), &label);
    }
    for (nth, colour) in COLOURS.iter().enumerate() {
        let points = axis.points.iter().zip(&values);
        let points = points.map(|(point, value)| (x(*value), y(point.medians()[nth])));
        svg.polyline(&points.collect::<Vec<_>>(), &stroke(colour));
    }
}

fn stroke(colour: &str) -> String {
    format!(r#"stroke="{colour}" stroke-width="2""#)
}

const COLOURS: [&str; COLUMNS.len()] =
    ["#94a3b8", "#a3a3a3", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#c2410c"];
const TEXT: Font = Font::sized(12.0);
const GREY: Font = TEXT.coloured("#666666");
/// Powers of ten, of a millisecond.
const MIN_POWER: f64 = -2.0;
const MAX_POWER: f64 = 4.0;
const PANEL: f64 = 340.0;
const LEGEND: f64 = 160.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 36.0;
