//! Mutation without coverage, on stable Rust: `cargo run --release -- TARGET [SECONDS] [FILE...]` in this
//! folder. The files are what is mutated; without any, the input grows from nothing. An input that
//! panics is kept as `crash-TARGET`. Coverage-guided: see `fuzz_targets/`.

use attacca_fuzz::{Random, control, elf, frames, mutate, rings, segments};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 5] = [
    ("elf", elf),
    ("frames", frames),
    ("segments", segments),
    ("rings", rings),
    ("control", control),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, target)) = args.first().and_then(|a| TARGETS.iter().find(|(n, _)| n == a)) else {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: attacca-fuzz {} [SECONDS] [FILE...]", names.join("|"));
        return ExitCode::FAILURE;
    };
    let seconds = args.get(1).and_then(|s| s.parse().ok()).unwrap_or(60);
    let files = args.iter().skip(2).filter_map(|path| std::fs::read(path).ok());
    let mut corpus: Vec<Vec<u8>> = files.collect();
    if corpus.is_empty() {
        corpus.push(vec![0; 64]);
    }
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64);
    let random = Random::new(seed);
    println!("{name}: {seconds} s, seed {seed}");
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0u64;
    while Instant::now() < deadline {
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut input, &random);
        runs += 1;
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let path = format!("crash-{name}");
            let kept = std::fs::write(&path, &input);
            println!("{runs} runs; the last input panics: {path} ({kept:?})");
            return ExitCode::FAILURE;
        }
        // Now and then a mutant stays, so that changes add up.
        if random.below(50) == 0 && input.len() < 1 << 20 {
            if corpus.len() < 256 {
                corpus.push(input);
            } else {
                corpus[128 + random.below(128)] = input;
            }
        }
    }
    println!("{runs} runs, no panic");
    ExitCode::SUCCESS
}
