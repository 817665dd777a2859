//! One line of the log, in either form.

use core::fmt::{self, Debug, Display, Write as _};
use std::error::Error;
use std::time::SystemTime;

use tracing::field::{Field, Visit};

use super::{Format, Level, time};

#[cfg(test)]
mod tests;

/// Collects the parts of a line; [`finish`](Self::finish) puts them in order.
#[derive(Debug)]
pub(super) struct Line {
    format: Format,
    level: Level,
    time: SystemTime,
    caller: Option<String>,
    logger: Option<String>,
    message: String,
    /// `"key":value` pairs with commas between them.
    fields: String,
}

impl Line {
    /// `caller` is the file, as the compiler names it, and the line of the code that logs.
    pub(super) fn new(format: Format, level: Level, time: SystemTime, caller: Option<(&str, u32)>) -> Self {
        Self {
            format,
            level,
            time,
            caller: caller.map(|(file, line)| format!("{}:{line}", short_path(file))),
            logger: None,
            message: String::new(),
            fields: String::new(),
        }
    }

    pub(super) fn message(&mut self, message: &dyn Display) {
        self.message = cut(format_args!("{message}"));
    }

    /// Adds a text. `logger` is no field but the name of the part of the program that logs.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        match name {
            "logger" => self.logger = Some(cut(format_args!("{value}"))),
            "message" => self.message = cut(format_args!("{value}")),
            _ => {
                let value = json_text(&cut(format_args!("{value}")));
                self.field(name, &value);
            }
        }
    }

    pub(super) fn display(&mut self, name: &str, value: &dyn Display) {
        self.text(name, &cut(format_args!("{value}")));
    }

    /// The bytes to write, with the line end.
    pub(super) fn finish(self) -> Vec<u8> {
        let line = match self.format {
            Format::Console => self.console(),
            Format::Json => self.json(),
        };
        line.into_bytes()
    }

    fn json(self) -> String {
        let mut line = format!(
            "{{\"level\":\"{}\",\"ts\":\"{}\"",
            self.level_name(),
            time::format(self.time)
        );
        for (key, value) in [("logger", &self.logger), ("caller", &self.caller)] {
            if let Some(value) = value {
                line.extend([",\"", key, "\":", &json_text(value)]);
            }
        }
        line.extend([",\"msg\":", &json_text(&self.message)]);
        if !self.fields.is_empty() {
            line.extend([",", &self.fields]);
        }
        line.push_str("}\n");
        line
    }

    fn console(self) -> String {
        let mut line = time::format(self.time);
        line.extend(["\t", &self.level_name().to_ascii_uppercase()]);
        for column in [&self.logger, &self.caller].into_iter().flatten() {
            line.extend(["\t", &printable(column)]);
        }
        line.extend(["\t", &printable(&self.message)]);
        if !self.fields.is_empty() {
            line.extend(["\t{", &self.fields, "}"]);
        }
        line.push('\n');
        line
    }

    fn level_name(&self) -> &'static str {
        match self.level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    /// Adds a field whose value is JSON already. Names that every line has get an underscore: a JSON object with two
    /// values for one key is read by some as the first, by others as the last.
    fn field(&mut self, name: &str, json: &str) {
        let (comma, colon) = match self.format {
            Format::Console => (", ", ": "),
            Format::Json => (",", ":"),
        };
        if !self.fields.is_empty() {
            self.fields.push_str(comma);
        }
        let name = name.trim_start_matches("r#");
        let key = if RESERVED.contains(&name) {
            json_text(&format!("{name}_"))
        } else {
            json_text(name)
        };
        self.fields.extend([&key, colon, json]);
    }
}

impl Visit for Line {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field.name(), &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field.name(), &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field.name(), &value.to_string());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.field(field.name(), &value.to_string());
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.field(field.name(), &value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other numbers than finite ones; zap writes the rest like this.
        let json = match value {
            f64::INFINITY => "\"+Inf\"".to_owned(),
            f64::NEG_INFINITY => "\"-Inf\"".to_owned(),
            value if value.is_nan() => "\"NaN\"".to_owned(),
            value => value.to_string(),
        };
        self.field(field.name(), &json);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.display(field.name(), &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field.name(), &cut(format_args!("{value:?}")));
    }
}

/// Formats up to [`VALUE_BYTES_MAX`] bytes and marks what was cut with `...`.
fn cut(arguments: fmt::Arguments<'_>) -> String {
    struct Bounded {
        text: String,
        cut: bool,
    }

    impl fmt::Write for Bounded {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            if self.cut {
                return Err(fmt::Error);
            }
            let room = VALUE_BYTES_MAX - self.text.len();
            if more.len() <= room {
                self.text.push_str(more);
                return Ok(());
            }
            self.text.push_str(&more[..more.floor_char_boundary(room)]);
            self.cut = true;
            Err(fmt::Error)
        }
    }

    let mut bounded = Bounded {
        text: String::new(),
        cut: false,
    };
    let complete = bounded.write_fmt(arguments).is_ok();
    if bounded.cut {
        bounded.text.push_str("...");
    } else if !complete {
        bounded.text.push_str("(cannot be shown)");
    }
    bounded.text
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Text for a column: line ends and other control characters are escaped, or a message could forge columns and lines.
fn printable(text: &str) -> String {
    let escaped = json_text(text);
    if text.chars().any(char::is_control) {
        escaped[1..escaped.len() - 1].to_owned()
    } else {
        text.to_owned()
    }
}

/// The path of a source file inside its package: files of this workspace are named from its root already, those of
/// dependencies with the whole path on the machine that built them, of which the last two parts stay, as zap does it.
fn short_path(file: &str) -> &str {
    if !file.starts_with(['/', '\\']) && file.get(1..2) != Some(":") {
        return file;
    }
    match file.rmatch_indices(['/', '\\']).nth(1) {
        Some((slash, _)) => &file[slash + 1..],
        None => file,
    }
}

/// Names of the parts that each line has.
const RESERVED: [&str; 5] = ["caller", "level", "logger", "msg", "ts"];
/// Longest value in bytes, the message included, before escaping.
const VALUE_BYTES_MAX: usize = 8192;
