//! <argp.h>: a program with parsers in a tree, and Debian's `locale`, print and end as natively.

mod support;

use std::process::{Command, Output};
use std::time::Duration;
use support::*;

const PROGRAM: &str = r#"
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
const char *argp_program_version = "tried 1.2\nsecond line";
const char *argp_program_bug_address = "<nobody@example.org>";
static struct argp_option options[] = {
    {"verbose", 'v', 0, 0, "Say a good deal more about what is done and why, so much that the description needs more lines than one", 0},
    {"chatty", 'C', 0, OPTION_ALIAS, 0, 0},
    {"output", 'o', "FILE", 0, "Write to FILE", 0},
    {"level", 'l', "N", OPTION_ARG_OPTIONAL, "Level", 0},
    {"secret", 's', "X", OPTION_HIDDEN, "Not shown", 0},
    {0, 'z', 0, 0, "Only a letter", 0},
    {0, 0, 0, 0, "Another group:", 3},
    {"only-long-and-rather-long-too", 300, "VALUE", 0, "No letter", 0},
    {"Words:", 0, 0, OPTION_DOC | OPTION_NO_USAGE, "what they mean", 0},
    {"abort", 301, 0, 0, 0, -1},
    {0}};
static struct argp_option more[] = {{"extra", 'e', "E", 0, "Of the child", 0}, {"inner", 'I', 0, 0, "Too", 0}, {0}};
static error_t parse_more(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT: printf("child init %s\n", (char *)state->input); return 0;
    case 'e': printf("extra %s\n", arg); return 0;
    case 'I': puts("inner"); return 0;
    case ARGP_KEY_END: puts("child end"); return 0;
    }
    return ARGP_ERR_UNKNOWN;
}
static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = "handed"; puts("init"); return 0;
    case 'v': puts("verbose"); return 0;
    case 'o': printf("output %s\n", arg); return 0;
    case 'l': printf("level %s\n", arg ? arg : "none"); return 0;
    case 's': case 'z': case 300: printf("key %d %s\n", key, arg ? arg : "none"); return 0;
    case 301: argp_failure(state, 9, 2, "cannot %s", "go on"); return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 3) return ARGP_ERR_UNKNOWN;
        if (!strcmp(arg, "bad")) argp_error(state, "no %s of %d", arg, 7);
        if (!strcmp(arg, "usage")) argp_usage(state);
        if (!strcmp(arg, "rest")) { printf("rest %d of %d\n", state->next, state->argc); state->next = state->argc; return 0; }
        printf("operand %u %s%s\n", state->arg_num, arg, state->quoted ? " quoted" : "");
        return 0;
    case ARGP_KEY_NO_ARGS: puts("no operands"); return 0;
    case ARGP_KEY_END: printf("end %u\n", state->arg_num); return 0;
    case ARGP_KEY_SUCCESS: puts("success"); return 0;
    case ARGP_KEY_ERROR: puts("error"); return 0;
    case ARGP_KEY_FINI: puts("fini"); return 0;
    }
    return ARGP_ERR_UNKNOWN;
}
static struct argp child = {more, parse_more, 0, 0, 0, 0, 0};
static struct argp_child children[] = {{&child, 0, "From the child:", 2}, {0}};
static struct argp top = {options, parse, "ONE [TWO]\n--all A-WORD ANOTHER-WORD YET-ANOTHER-WORD AND-ONE-MORE-WORD",
    "Tries argp -- with a description that is longer than a line has room for, so that it is wrapped\vAnd words at the end.",
    children, 0, 0};
int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    unsigned flags = getenv("FLAGS") ? strtoul(getenv("FLAGS"), 0, 0) : 0;
    int end = -1;
    error_t error = argp_parse(&top, argc, argv, flags, getenv("END") ? &end : 0, 0);
    printf("error %d end %d\n", error, end);
    return error != 0;
}
"#;

fn seen(mut command: Command, variables: &[(&str, &str)]) -> (String, String, i32) {
    let Output { status, stdout, stderr } =
        run_limited(command.envs(variables.iter().copied()), Duration::from_secs(30));
    let words = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (words(stdout), words(stderr), shell_status(status))
}

fn compare(program: &str, args: &[&str], variables: &[(&str, &str)]) {
    let mut native = Command::new(program);
    native.args(args);
    let mut guest = attacca();
    guest.args(["run", "--net", "none", program]).args(args);
    let (native, guest) = (seen(native, variables), seen(guest, variables));
    assert_eq!(
        guest, native,
        "{program} {args:?} {variables:?}\nnatively:\n{}{}\nin a guest:\n{}{}",
        native.0, native.1, guest.0, guest.1
    );
}

#[test]
fn a_tree_of_parsers() {
    let program = compile("argp", PROGRAM, &[]).display().to_string();
    let lists: [&[&str]; 22] = [
        &[],
        &["--help"],
        &["-?"],
        &["--usage"],
        &["--version"],
        &["-V"],
        &["-v", "one", "-ofile", "two", "--output=x", "-l", "-l5", "--level=6"],
        &["-vCz", "--only-long=5", "-s", "5", "--chatty", "-e", "E", "--inner"],
        &["one", "--", "-v", "two"],
        &["one", "two", "three", "four"],
        &["bad"],
        &["usage"],
        &["-v", "rest", "a", "b", "c", "d"],
        &["--nonsense"],
        &["-q"],
        &["--output"],
        &["-o"],
        &["--verbose=5"],
        &["--o"],
        &["--abort"],
        &["--", "bad"],
        &["-e"],
    ];
    for args in lists {
        compare(&program, args, &[]);
    }
    for flags in ["1", "2", "4", "8", "0x10", "0x20", "0x40", "0x32"] {
        for args in [
            &["one", "-v", "two"][..],
            &["-q"],
            &["--nonsense", "x"],
            &["1", "2", "3", "4"],
            &["--help"],
            &["-output", "x"],
        ] {
            compare(&program, args, &[("FLAGS", flags)]);
            compare(&program, args, &[("FLAGS", flags), ("END", "")]);
        }
    }
}

#[test]
fn programs_of_glibc() {
    for args in [&["--help"][..], &["--usage"], &["-q"], &["-a"], &["charmap"], &["-k", "LC_NUMERIC"], &[]] {
        compare("/usr/bin/locale", args, &[("LC_ALL", "C")]);
    }
}
