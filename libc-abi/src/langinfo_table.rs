//! The strings behind `nl_langinfo`, printed by `tools/tables.c langinfo`: the same in C and C.UTF-8.

use core::ffi::CStr;

/// Category 1 by item index.
#[rustfmt::skip]
pub static NUMERIC: [&CStr; 2] = [
    c".",
    c"",
];

/// Category 2 by item index.
#[rustfmt::skip]
pub static TIME: [&CStr; 50] = [
    c"Sun",
    c"Mon",
    c"Tue",
    c"Wed",
    c"Thu",
    c"Fri",
    c"Sat",
    c"Sunday",
    c"Monday",
    c"Tuesday",
    c"Wednesday",
    c"Thursday",
    c"Friday",
    c"Saturday",
    c"Jan",
    c"Feb",
    c"Mar",
    c"Apr",
    c"May",
    c"Jun",
    c"Jul",
    c"Aug",
    c"Sep",
    c"Oct",
    c"Nov",
    c"Dec",
    c"January",
    c"February",
    c"March",
    c"April",
    c"May",
    c"June",
    c"July",
    c"August",
    c"September",
    c"October",
    c"November",
    c"December",
    c"AM",
    c"PM",
    c"%a %b %e %H:%M:%S %Y",
    c"%m/%d/%y",
    c"%H:%M:%S",
    c"%I:%M:%S %p",
    c"",
    c"",
    c"",
    c"",
    c"",
    c"",
];

/// Category 4 by item index.
#[rustfmt::skip]
pub static MONETARY: [&CStr; 16] = [
    c"",
    c"",
    c"",
    c"",
    c"",
    c"",
    c"",
    c"\xff\xff\xff\xff\xff\xff\xff\xff-",
    c"\xff\xff\xff\xff\xff\xff\xff-",
    c"\xff\xff\xff\xff\xff\xff-",
    c"\xff\xff\xff\xff\xff-",
    c"\xff\xff\xff\xff-",
    c"\xff\xff\xff-",
    c"\xff\xff-",
    c"\xff-",
    c"-",
];

/// Category 5 by item index.
#[rustfmt::skip]
pub static MESSAGES: [&CStr; 4] = [
    c"^[yY]",
    c"^[nN]",
    c"",
    c"",
];
