use super::*;

#[test]
fn macros() {
    gives(&[
        ("[1, 2, 3].map(x, x * 2)", json!([2, 4, 6])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x != 2)", json!([1, 3])),
        ("[1, 2, 3].exists_one(x, x == 2)", json!(true)),
        (
            "[[1, 2], [3]].map(x, x.map(y, y + 1))",
            json!([[2, 3], [4]]),
        ),
        ("{'a': 1}.all(k, k == 'a')", json!(true)),
        ("{'a': 1}.all(k, v, k == 'a' && v == 1)", json!(true)),
        ("[4, 5].transformList(i, v, i * v)", json!([0, 5])),
        (
            "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10)",
            json!({"b": 20}),
        ),
        (
            "[1, 2].transformMapEntry(i, v, {string(v): i})",
            json!({"1": 0, "2": 1}),
        ),
        ("cel.bind(x, 2, x * x)", json!(4)),
    ]);
}

#[test]
fn strings() {
    gives(&[
        ("'tacocat'.charAt(3)", json!("o")),
        ("'tacocat'.charAt(7)", json!("")),
        ("'hello mellow'.indexOf('ello', 2)", json!(7)),
        ("'hello mellow'.indexOf('jello')", json!(-1)),
        ("'hello mellow'.lastIndexOf('ello')", json!(7)),
        ("'hello mellow'.lastIndexOf('ello', 6)", json!(1)),
        (
            "'TacoCat Ä'.lowerAscii() + 'ä'.upperAscii()",
            json!("tacocat Ää"),
        ),
        ("'hello hello'.replace('he', 'we', 1)", json!("wello hello")),
        ("'abc'.replace('', '-')", json!("-a-b-c-")),
        ("'a,b,c'.split(',')", json!(["a", "b", "c"])),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("'abc'.split('')", json!(["a", "b", "c"])),
        (
            "'tacocat'.substring(0, 4) + 'x'.substring(1)",
            json!("taco"),
        ),
        ("'  \\ttrim\\n'.trim()", json!("trim")),
        ("['a', 'b'].join('-') + [''].join()", json!("a-b")),
        ("strings.quote('a\"b\\n')", json!("\"a\\\"b\\n\"")),
        (
            "'%s is %d, %.2f, %x, %b, %o, %e'.format(['a', 7, 1.5, 255, true, 8, 1234.5])",
            json!("a is 7, 1.50, ff, 1, 10, 1.234500\u{202f}\u{d7}\u{202f}10\u{2070}\u{b3}"),
        ),
        (
            "'%s %s %%'.format([[1, 'x'], {'k': 2}])",
            json!("[1, \"x\"] {\"k\":2} %"),
        ),
        ("size('\u{1f600}a')", json!(2)),
    ]);
    fails(&[
        ("'abc'.charAt(4)", "index out of range: 4"),
        (
            "'abc'.substring(2, 1)",
            "invalid substring range. start: 2, end: 1",
        ),
        (
            "'%d'.format(['x'])",
            "decimal clause can only be used on integers, was given string",
        ),
        ("'%s'.format([])", "index 0 out of range"),
    ]);
}

#[test]
fn lists_and_sets() {
    gives(&[
        (
            "[1, 2, 2].isSorted() && !['b', 'a'].isSorted()",
            json!(true),
        ),
        ("[1, 2, 3].sum()", json!(6)),
        ("[1.5, 2.5].sum()", json!(4.0)),
        ("[3, 1, 2].min() + [3, 1, 2].max()", json!(4)),
        (
            "[1, 2, 2].indexOf(2) * 10 + [1, 2, 2].lastIndexOf(2)",
            json!(12),
        ),
        ("[1, 2, 3, 4].slice(1, 3)", json!([2, 3])),
        ("[[[1]], [[2, 3]]].flatten()", json!([[1], [2, 3]])),
        ("[[[1]], [[2, 3]]].flatten(2)", json!([1, 2, 3])),
        ("[3, 1, 2].sort()", json!([1, 2, 3])),
        ("['bb', 'a'].sortBy(x, size(x))", json!(["a", "bb"])),
        ("lists.range(3).reverse()", json!([2, 1, 0])),
        ("[1, 1, 2].distinct()", json!([1, 2])),
        ("[1, 2].first().value() + [1, 2].last().value()", json!(3)),
        (
            "sets.contains([1, 2], [2]) && sets.equivalent([1, 1], [1]) && !sets.intersects([1], [2])",
            json!(true),
        ),
    ]);
    fails(&[
        ("[1].filter(x, x > 1).min()", "min called on empty list"),
        ("[1].slice(0, 2)", "cannot slice(0, 2), list is length 1"),
        (
            "lists.range(9223372036854775807)",
            "operation cancelled: actual cost limit exceeded",
        ),
    ]);
}

#[test]
fn regular_expressions() {
    gives(&[
        ("'abc 123'.matches('[a-z]+ [0-9]+$')", json!(true)),
        ("'abc 123'.find('[0-9]*')", json!("")),
        ("'abc 123 456'.find('[0-9]+')", json!("123")),
        ("'123 abc 456'.findAll('[0-9]+')", json!(["123", "456"])),
        ("'123 abc 456'.findAll('[0-9]+', 1)", json!(["123"])),
        (
            r"'\u0663'.matches('\\d') || '\u00e9'.matches('\\w')",
            json!(false),
        ),
        (
            r"'a-b_1'.matches('^[\\w-]+$') && 'x[&'.matches('^[a-z[&]+$')",
            json!(true),
        ),
        (
            r"'ab]'.matches('^[]ab]+$') && 'a1'.matches('^[[:alnum:]]+$')",
            json!(true),
        ),
        (r"'one two'.matches('\\btwo\\b')", json!(true)),
    ]);
}

#[test]
fn time() {
    gives(&[
        (
            "duration('1h30m') - duration('30m') == duration('3600s')",
            json!(true),
        ),
        ("string(duration('1.5s'))", json!("1.5s")),
        (
            "duration('90m').getHours() * 1000 + duration('90m').getMinutes()",
            json!(1090),
        ),
        (
            "timestamp('2023-01-01T00:00:00Z') + duration('24h') == timestamp('2023-01-02T00:00:00Z')",
            json!(true),
        ),
        (
            "timestamp('2023-12-25T12:30:45.678Z').getMonth()",
            json!(11),
        ),
        (
            "timestamp('2023-12-25T00:30:00Z').getDate('-08:00')",
            json!(24),
        ),
        (
            "timestamp('2023-12-25T00:30:00Z').getHours('Europe/Berlin')",
            json!(1),
        ),
        ("timestamp('2023-12-25T00:30:00Z').getDayOfWeek()", json!(1)),
        ("int(timestamp('1970-01-01T00:01:00Z'))", json!(60)),
        (
            "string(timestamp('2023-01-01T00:00:00+01:00'))",
            json!("2022-12-31T23:00:00Z"),
        ),
    ]);
    let (found, _) = run("duration('1 fortnight') == duration('1s')");
    assert!(found.is_err_and(|error| error.contains("invalid duration argument")));
}

#[test]
fn conversions() {
    gives(&[
        ("int(3.9) + int('4') + int(5u)", json!(12)),
        (
            "uint(3) == 3u && double('1.5') == 1.5 && string(true) == 'true'",
            json!(true),
        ),
        (
            "string(1e21) + ' ' + string(0.00001) + ' ' + string(1.0)",
            json!("1e+21 1e-05 1"),
        ),
        (
            "bytes('abc') == b'abc' && string(b'abc') == 'abc'",
            json!(true),
        ),
        (
            "'\\x41\\u00e9\\101' == 'AéA' && r'\\n' == '\\\\n'",
            json!(true),
        ),
        ("'''a\n'b'''", json!("a\n'b")),
        ("0xff + 1", json!(256)),
    ]);
    fails(&[
        ("int(1e30)", "integer overflow"),
        ("uint(-1)", "unsigned integer overflow"),
        (
            "string(b'\\xff')",
            "invalid UTF-8 in bytes, cannot convert to string",
        ),
    ]);
}

#[test]
fn optionals() {
    gives(&[
        ("object.?spec.?replicas.orValue(0)", json!(3)),
        ("object.?nope.?replicas.orValue(0)", json!(0)),
        ("object.spec.names[?9].hasValue()", json!(false)),
        ("[?object.?nope, ?object.metadata.?name]", json!(["web"])),
        ("{?'a': object.?nope, 'b': dyn(1)}", json!({"b": 1})),
        ("optional.of(2).optMap(x, x * 2).value()", json!(4)),
        (
            "optional.none().optFlatMap(x, optional.of(x)).hasValue()",
            json!(false),
        ),
        (
            "optional.ofNonZeroValue('').or(optional.of('x')).value()",
            json!("x"),
        ),
    ]);
    fails(&[("optional.none().value()", "optional.none() dereference")]);
}

#[test]
fn quantities_versions_and_addresses() {
    gives(&[
        (
            "quantity('1Gi').isGreaterThan(quantity('1000Mi'))",
            json!(true),
        ),
        (
            "quantity('500m').add(quantity('0.5')).asInteger()",
            json!(1),
        ),
        (
            "quantity('1500m').isInteger() || isQuantity('1.5.1') || isQuantity('5x')",
            json!(false),
        ),
        ("quantity('1k').sub(1).compareTo(quantity('999'))", json!(0)),
        ("quantity('50k') == quantity('50000')", json!(true)),
        ("quantity('1.5').asApproximateFloat()", json!(1.5)),
        (
            "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.0', true) && !isSemver('v1.0')",
            json!(true),
        ),
        ("semver('1.2.3-rc.1').compareTo(semver('1.2.3'))", json!(-1)),
        (
            "ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && !isIP('1.2.3')",
            json!(true),
        ),
        (
            "ip.isCanonical('::1') && !ip.isCanonical('0:0::1')",
            json!(true),
        ),
        (
            "string(cidr('192.168.1.5/24').masked())",
            json!("192.168.1.0/24"),
        ),
        (
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('0.0.0.0/0')",
            json!(true),
        ),
        ("cidr('10.0.0.0/8').prefixLength()", json!(8)),
        (
            "url('https://user@example.com:8080/a%20b?x=1&x=2#f').getHost()",
            json!("example.com:8080"),
        ),
        (
            "url('https://example.com:80/a b').getEscapedPath()",
            json!("/a%20b"),
        ),
        (
            "url('https://example.com/?x=1&x=2').getQuery()",
            json!({"x": ["1", "2"]}),
        ),
        (
            "isURL('https://a/') && isURL('/path') && !isURL('../x')",
            json!(true),
        ),
        (
            "url('https://[::1]:80/').getHostname() + url('https://[::1]:80/').getPort()",
            json!("::180"),
        ),
        (
            "format.dns1123Label().validate('my-name').hasValue()",
            json!(false),
        ),
        (
            "format.named('dns1123Label').value().validate('a.b').value()",
            json!(["must not contain dots"]),
        ),
        ("format.named('nope').hasValue()", json!(false)),
        (
            "format.uuid().validate('x').value()",
            json!(["does not match the UUID format"]),
        ),
    ]);
    fails(&[
        (
            "quantity('x')",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "quantity('1.5').asInteger()",
            "cannot convert value to integer",
        ),
        (
            "ip('::ffff:1.2.3.4')",
            "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed",
        ),
    ]);
}
