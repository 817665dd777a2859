//! Comma-separated lists as pflag reads them, with the first record of Go's `encoding/csv`.

#[cfg(test)]
mod tests;

/// Splits a list at its commas. A field in double quotes may contain commas, and `""` for a quote. Only the first line
/// counts, empty lines before it apart; nothing at all is an empty list.
///
/// # Errors
///
/// Go's message for quotes that do not match (line and column count from 1, columns in bytes).
pub(super) fn parse(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // CR LF counts as LF, and so does a CR at the end of the text.
    let text = text.strip_suffix('\r').unwrap_or(text).replace("\r\n", "\n");
    let record = text.trim_start_matches('\n');
    let blank = text.len() - record.len();
    if record.is_empty() {
        return Err("EOF".into());
    }
    let mut fields = Vec::new();
    let mut position = Position {
        record: blank + 1,
        line: blank + 1,
        column: 1,
    };
    let mut rest = record;
    loop {
        let (field, end) = match rest.strip_prefix('"') {
            Some(inside) => {
                position.column += 1;
                quoted(inside, &mut position)?
            }
            None => plain(rest, &mut position)?,
        };
        fields.push(field);
        match end {
            End::Record => return Ok(fields),
            End::Comma(behind) => rest = behind,
        }
    }
}

/// What ends a field.
enum End<'a> {
    /// A comma, with what follows it.
    Comma(&'a str),
    Record,
}

/// Lines and columns count from 1; `record` is the line that the record began on.
struct Position {
    record: usize,
    line: usize,
    column: usize,
}

fn plain<'a>(text: &'a str, position: &mut Position) -> Result<(String, End<'a>), String> {
    let line = text.split('\n').next().unwrap_or_default();
    let (field, end) = match line.split_once(',') {
        Some((field, _)) => (field, End::Comma(&text[field.len() + 1..])),
        None => (line, End::Record),
    };
    if let Some(quote) = field.find('"') {
        position.column += quote;
        return Err(error(position, "bare \" in non-quoted-field"));
    }
    position.column += field.len() + 1;
    Ok((field.into(), end))
}

fn quoted<'a>(mut text: &'a str, position: &mut Position) -> Result<(String, End<'a>), String> {
    const UNMATCHED: &str = "extraneous or missing \" in quoted-field";
    let mut field = String::new();
    loop {
        let Some((inside, behind)) = text.split_once('"') else {
            // Go names the end of the last line that there is.
            let last = text.strip_suffix('\n').unwrap_or(text);
            advance(position, last);
            position.column += text.len() - last.len();
            return Err(error(position, UNMATCHED));
        };
        field.push_str(inside);
        advance(position, inside);
        if let Some(behind) = behind.strip_prefix('"') {
            field.push('"');
            position.column += 2;
            text = behind;
        } else if let Some(behind) = behind.strip_prefix(',') {
            position.column += 2;
            return Ok((field, End::Comma(behind)));
        } else if behind.is_empty() || behind.starts_with('\n') {
            return Ok((field, End::Record));
        } else {
            return Err(error(position, UNMATCHED));
        }
    }
}

fn advance(position: &mut Position, text: &str) {
    match text.rsplit_once('\n') {
        Some((lines, last)) => {
            position.line += lines.matches('\n').count() + 1;
            position.column = last.len() + 1;
        }
        None => position.column += text.len(),
    }
}

fn error(position: &Position, problem: &str) -> String {
    let Position { record, line, column } = *position;
    let record = if record == line {
        String::new()
    } else {
        format!("record on line {record}; ")
    };
    format!("{record}parse error on line {line}, column {column}: {problem}")
}
