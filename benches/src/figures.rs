//! The table that a bench prints.

/// Measured figures with the budgets they are held against.
#[derive(Default)]
pub struct Figures {
    rows: Vec<[String; 3]>,
}

impl Figures {
    /// Adds a row, and prints it at once: a long bench shows what it has.
    pub fn add(&mut self, what: &str, measured: impl Into<String>, budget: &str) {
        let row = [what.to_owned(), measured.into(), budget.to_owned()];
        eprintln!("{}: {}", row[0], row[1]);
        self.rows.push(row);
    }

    /// Prints the table as Markdown.
    pub fn print(&self) {
        println!("| what | measured | budget |\n|---|---|---|");
        for [what, measured, budget] in &self.rows {
            println!("| {what} | {measured} | {budget} |");
        }
    }
}

/// The value below which `share` of the sorted values lie.
pub fn percentile<T: Copy + Default>(sorted: &[T], share: f64) -> T {
    let last = sorted.len().saturating_sub(1);
    let place = (last as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or_default()
}
