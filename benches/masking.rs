//! How fast lines are cleaned and masked: `cargo bench --bench masking -- <secrets> <log>`, with one secret a
//! line in the one file and text in the other. Prints megabytes (10^6) a second, the best of five times.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use buildgrid::timeline::mask::Mask;

fn main() -> Result<(), Box<dyn Error>> {
    let files: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [secrets, log] = &files[..] else { return Err("name a file of secrets and a log".into()) };
    let (secrets, log) = (std::fs::read_to_string(secrets)?, std::fs::read_to_string(log)?);
    let (mask, unmasked) = Mask::new(secrets.lines().map(|secret| ("secret", secret.as_bytes())))?;
    if !unmasked.is_empty() {
        return Err("a secret is too short".into());
    }
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        let mut masked = 0;
        for line in log.lines() {
            let shown = black_box(mask.shown(line));
            masked += usize::from(shown.len() != line.len());
        }
        best = best.min(begun.elapsed().as_secs_f64());
        // Otherwise it would be easy to be fast.
        if masked == 0 || secrets.lines().any(|secret| mask.shown(secret).contains(secret)) {
            return Err("nothing is masked".into());
        }
    }
    println!("{:.1}", log.len() as f64 / best / 1e6);
    Ok(())
}
