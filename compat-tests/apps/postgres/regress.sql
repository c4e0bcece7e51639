-- What of PostgreSQL leans on its C library, its processes and its memory: types and their texts, collation, locks, triggers,
-- indexes of each kind, sorting in files, parallel workers, COPY. The expected text is a native server's.
-- (glibc's cbrt(27) is one bit off, ours is not: left out.)
\set VERBOSITY terse
\pset null '(null)'
set datestyle = 'ISO, YMD';
set timezone = 'America/New_York';
set client_min_messages = warning;
drop schema if exists regress cascade;
create schema regress;
set search_path = regress;
-- numbers and their texts
select 1/3::float8, 1/3::float4, 'NaN'::float8, '-Infinity'::float8, 1e308::float8 * 10 > 1 as never;
select 1e-320::float8, 0.1::float8 + 0.2::float8, exp(1::float8), ln(10::float8), sin(1), atan2(1, 2), 2::float8 ^ 0.5;
select 123456789012345678901234567890.123456789::numeric * 987654321.123456789, sqrt(2::numeric(60, 50)), 7 % -3, div(-7, 2);
select to_char(1234567.891, 'FM9,999,999.00'), to_char(-0.5, '90.99'), to_number('12,454.8-', '99G999D9S'), round(2.5), round(-2.5::float8);
select 9223372036854775807 + 1;
select '12abc'::int;
-- texts
select upper('straße ÄÖ'), initcap('hello wORLD'), reverse('añb'), length('€uro'), octet_length('€uro'), lpad('x', 5, 'ab');
select 'abc' ~ '^a.c$', regexp_replace('The quick', '(\w+) (\w+)', '\2 \1'), regexp_split_to_array('a1b22c', '\d+'), 'ÄB' ~* 'äb';
select string_agg(x, ',' order by x collate "C") from unnest(array['b', 'A', 'a', 'B', 'é', 'z']) x;
select md5('attacca'), sha256('attacca'), encode('\x00ff10'::bytea, 'base64'), crc from (select hashtext('x') is not null as crc) t;
select format('%s %I %L %5s|%-5s|', 'a', 'b c', 'it''s', 'x', 'y'), quote_nullable(null), chr(8364), ascii('€');
select to_tsvector('english', 'The quick brown foxes jumped over lazy dogs') @@ to_tsquery('english', 'fox & jump');
select ts_headline('english', 'A server in a library', to_tsquery('libraries'));
-- times
select '2024-02-29'::date + interval '1 year', age('2024-03-01', '2023-02-28'), extract(epoch from '2001-09-09 01:46:40+00'::timestamptz);
select '2024-03-10 02:30'::timestamptz, '2024-11-03 01:30'::timestamptz at time zone 'UTC', '2024-07-01 12:00+02'::timestamptz;
select to_char('2024-12-30 15:04:05.678'::timestamp, 'IYYY-IW-ID Day DDTH Mon HH12:MI:SS.MS AM'), date_trunc('week', '2024-12-30'::date);
set timezone = 'Europe/Berlin';
select '2024-07-01 12:00+00'::timestamptz, make_interval(months => 14, hours => 30), justify_interval('40 days 30 hours');
-- rows, joins, windows, recursion
create table word (id serial primary key, text text not null, n int check (n >= 0), made timestamptz default now());
insert into word (text, n) select 'w' || i % 97, i from generate_series(1, 5000) i;
insert into word (text, n) values ('bad', -1);
select text, count(*), sum(n), min(n), max(n), avg(n)::numeric(10, 2) from word group by text having count(*) > 51 order by text collate "C" limit 5;
select n, lag(n) over w, rank() over w, sum(n) over (order by n rows between 1 preceding and 1 following), ntile(3) over w from word where n < 7 window w as (order by n);
with recursive f(i, a, b) as (select 1, 0::numeric, 1::numeric union all select i + 1, b, a + b from f where i < 100) select a from f where i = 100;
select a.n, b.n from word a left join word b on b.n = a.n * 2 and b.n % 3 = 0 where a.n between 1 and 6 order by 1;
select grouping(n % 2, n % 3), n % 2, n % 3, count(*) from word group by rollup (n % 2, n % 3) order by 1, 2, 3;
-- json and arrays
select '{"a": [1, 2, {"b": null}], "c": 1.50}'::jsonb #> '{a,2}', jsonb_path_query_array('[1, 2, 3, 4]', '$[*] ? (@ > 2)'), '{"x": 1}'::jsonb || '{"y": "\u20ac"}';
select array[1, 2, 3] || 4, array_agg(i order by -i) from generate_series(1, 5) i;
select jsonb_pretty('{"k": [true, {}]}');
-- indexes
create table point_of (id int, p point, tags text[], span int4range, body text);
insert into point_of select i, point(i % 100, i / 100), array['t' || i % 7, 'u' || i % 11], int4range(i, i + 10), repeat(md5(i::text), 3) from generate_series(1, 4000) i;
create index on point_of using gist (p);
create index on point_of using gin (tags);
create index on point_of using brin (id);
create index on point_of using hash (body);
create index on point_of using gist (span);
create unique index on point_of (id);
analyze point_of;
set enable_seqscan = off;
select count(*) from point_of where p <@ box '((10,10),(20,20))';
select count(*) from point_of where tags @> array['t3', 'u4'];
select id from point_of where body = repeat(md5('77'), 3);
select id from point_of where span @> 25 order by id limit 3;
select id from point_of order by p <-> point(33, 12) limit 1;
explain (costs off) select * from point_of where id = 5;
reset enable_seqscan;
insert into point_of (id) values (5);
-- procedures, triggers, errors, savepoints
create table log (what text);
create function noted() returns trigger language plpgsql as $$
begin
    insert into log values (tg_op || ' ' || coalesce(new.n, old.n));
    return new;
end $$;
create trigger note after insert or update or delete on word for each row execute function noted();
begin;
insert into word (text, n) values ('new', 1000000);
savepoint one;
update word set n = n + 1 where text = 'new';
rollback to one;
delete from word where n = 5;
commit;
select * from log;
do $$
declare caught text;
begin
    begin
        perform 1 / 0;
    exception when division_by_zero then
        get stacked diagnostics caught = message_text;
        raise warning 'caught %', caught;
    end;
    raise exception 'end % %', 1, 'two' using errcode = 'P0099';
end $$;
begin;
declare c scroll cursor for select n from word order by n desc;
fetch 2 from c;
move forward 10 in c;
fetch backward 1 from c;
commit;
-- partitions, conflict, returning
create table part (k int, v text) partition by hash (k);
create table part0 partition of part for values with (modulus 2, remainder 0);
create table part1 partition of part for values with (modulus 2, remainder 1);
insert into part select i, 'v' || i from generate_series(1, 1000) i;
select count(*) from part0, lateral (select 1) one;
create table once (k int primary key, v int);
insert into once values (1, 1), (2, 2) on conflict (k) do update set v = once.v + 10 returning *;
insert into once values (1, 1), (3, 3) on conflict (k) do update set v = once.v + 10 returning *;
merge into once using (values (3, 30), (4, 40)) s (k, v) on once.k = s.k when matched then update set v = s.v when not matched then insert values (s.k, s.v);
select * from once order by k;
-- sorts in files, hashes in batches, workers
create table big as select i, md5(i::text) as h from generate_series(1, 60000) i;
set work_mem = '64kB';
select h from (select h from big order by h collate "C" desc offset 29999 limit 1) t;
select count(distinct h), count(*) from big join (select h as other from big where i % 2 = 0) o on o.other = big.h;
reset work_mem;
analyze big;
set min_parallel_table_scan_size = 0;
set parallel_setup_cost = 0;
set parallel_tuple_cost = 0;
set max_parallel_workers_per_gather = 2;
explain (costs off) select sum(i) from big;
select sum(i), max(h) from big;
set jit_above_cost = 0;
select pg_jit_available(), sum(i * 2 + 1), avg(length(h)) from big;
reset jit_above_cost;
create index on big (h);
reset max_parallel_workers_per_gather;
-- COPY, programs, large values
copy (select i, h from big where i <= 3) to stdout with (format csv, header);
create temp table back (line text);
copy back from program 'echo one; echo two; exit 0';
select * from back;
copy back from program 'exit 7';
select length(string_agg(h, '')), md5(string_agg(h, '' order by i)) from big;
create table wide (v text);
insert into wide select string_agg(md5(i::text), '') from generate_series(1, 40000) i;
select length(v), md5(v), pg_column_size(v) < length(v) + 100 as stored from wide;
vacuum analyze big;
select pg_advisory_lock(7), pg_try_advisory_lock(7), pg_advisory_unlock(7);
set statement_timeout = '50ms';
select pg_sleep(10);
reset statement_timeout;
select count(*) from pg_stat_activity where backend_type in ('checkpointer', 'background writer', 'walwriter', 'autovacuum launcher');
drop schema regress cascade;
