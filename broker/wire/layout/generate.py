#!/usr/bin/env python3
"""Writes ../src/layout_table.rs: where the counts, lengths and nulls stand in every request we advertise.

The facts are read from the decoders the broker really runs (kafka-protocol, as cargo fetched it), one version after
the other, so that the walk and the decoder cannot disagree about a field. Run it after each update of that crate:

    python3 generate.py ~/.cargo/registry/src/*/kafka-protocol-0.18.0 > ../src/layout_table.rs

It stops at the first line it does not understand; nothing is guessed. Versions that Kafka 4.3 speaks and that crate
does not decode are added from the table NEWER, which states what Kafka's message definitions change in them.
"""
import re
import sys
from pathlib import Path

REQUESTS = """produce fetch list_offsets metadata offset_commit offset_fetch find_coordinator join_group heartbeat
leave_group sync_group describe_groups list_groups sasl_handshake api_versions create_topics delete_topics delete_records
init_producer_id offset_for_leader_epoch describe_configs alter_configs describe_log_dirs sasl_authenticate
create_partitions delete_groups incremental_alter_configs offset_delete describe_cluster get_telemetry_subscriptions
push_telemetry describe_topic_partitions create_delegation_token renew_delegation_token expire_delegation_token
describe_delegation_token describe_acls create_acls delete_acls describe_client_quotas describe_user_scram_credentials alter_user_scram_credentials""".split()

# request: (newest version, {structure: (field that ends, field that takes its place, its shape)})
NEWER = {
    "list_offsets": (11, {}),
    "offset_commit": (10, {"OffsetCommitRequestTopic": ("name", "topic_id", "Shape::Fixed(16)")}),
    "offset_fetch": (10, {"OffsetFetchRequestTopics": ("name", "topic_id", "Shape::Fixed(16)")}),
    "describe_log_dirs": (5, {}),
}

FIXED = {"Boolean": 1, "Int8": 1, "Int16": 2, "UInt16": 2, "Int32": 4, "UInt32": 4, "Int64": 8, "Float64": 8, "Uuid": 16}


def block(text, start):
    """The text between the brace at `start` and its partner, and where it ended."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + 1:at], at + 1
    raise SystemExit("braces do not match")


def holds(condition, version):
    condition = condition.replace("&&", "and").replace("||", "or").strip()
    if not re.fullmatch(r"(version|and|or|[<>=!]=?|\d+|\s|\(|\))+", condition):
        raise SystemExit(f"condition not understood: {condition}")
    return eval(condition, {"version": version})


def leaf(expression, version):
    """The wire type that `expression` reads in `version`, or None when it reads nothing."""
    expression = expression.strip()
    if expression.startswith("if "):
        brace = expression.index("{")
        yes, after = block(expression, brace)
        rest = expression[after:].strip()
        no = rest.removeprefix("else").strip()
        if no.startswith("{"):
            no, _ = block(no, 0)
        return leaf(yes if holds(expression[3:brace], version) else no, version)
    found = re.fullmatch(r"types::(.*?)\.decode\(buf\)\?;?", expression, re.S)
    if found:
        return re.sub(r"types::|\{version\}", "", re.sub(r"\s", "", found.group(1)))
    if "decode" in expression:
        raise SystemExit(f"expression not understood: {expression}")
    return None


def statements(body):
    """`let name = expression;` of a decoder, in order."""
    for found in re.finditer(r"^        let (?:mut )?(\w+) = ", body, re.M):
        end, depth = found.end(), 0
        while body[end] != ";" or depth:
            depth += (body[end] in "{(") - (body[end] in "})")
            end += 1
        yield found.group(1), body[found.end():end]


def shape(kind, rust_type, structs):
    """One wire type as a Rust expression, and whether it is of the compact family (None: neither)."""
    nullable = str(rust_type.startswith("Option<")).lower()
    inner = re.sub(r"^Option<(.*)>$", r"\1", rust_type)
    if kind in FIXED:
        return f"Shape::Fixed({FIXED[kind]})", None
    if kind in ("String", "CompactString"):
        return f"Shape::Text {{ nullable: {nullable} }}", kind.startswith("Compact")
    if kind in ("Bytes", "CompactBytes"):
        return f"Shape::Blob {{ nullable: {nullable} }}", kind.startswith("Compact")
    if kind in ("Struct", "OptionStruct"):
        name = structs[inner]
        return (f"Shape::Struct(&{name})" if kind == "Struct" else f"Shape::Option(&{name})"), None
    found = re.fullmatch(r"(Compact)?Array\((.*)\)", kind)
    if not found:
        raise SystemExit(f"type not understood: {kind}")
    element_type = re.fullmatch(r"Vec<(.*)>", inner).group(1)
    element, _ = shape(found.group(2), element_type, structs)
    return f"Shape::Array {{ nullable: {nullable}, element: &{element} }}", bool(found.group(1))


def layout(request, struct, fields, body, low, high, structs, constant):
    flexible, tags, rows, order = None, [], {}, []
    for version in range(low, high + 1):
        here = re.search(r"^        if version >= (\d+) \{\n            let num_tagged_fields", body, re.M)
        always = re.search(r"^        let num_tagged_fields", body, re.M)
        flexible = int(here.group(1)) if here else (low if always else None)
        for name, expression in statements(body):
            if name not in fields:
                continue
            kind = leaf(expression, version)
            if kind is None:
                continue
            text, compact = shape(kind, fields[name], structs)
            if compact is not None and compact != (flexible is not None and version >= flexible):
                raise SystemExit(f"{struct}.{name} v{version}: compact form where the version is not flexible, or the reverse")
            if name not in rows:
                rows[name] = [text, version, version]
                order.append(name)
            elif rows[name][0] != text or rows[name][2] != version - 1:
                raise SystemExit(f"{struct}.{name}: changes its form at v{version}")
            rows[name][2] = version
    # Decoders read in source order, whichever version introduced the field.
    order = [name for name, _ in statements(body) if name in rows]
    newest, changes = NEWER.get(request, (high, {}))
    if newest <= high and request in NEWER:
        raise SystemExit(f"{request} {newest}: the decoder knows it now; take it out of NEWER and of ../src/newer.rs")
    ended, follower, text = changes.get(struct, (None, None, None))
    for name, row in rows.items():
        if row[2] == high and name != ended:
            row[2] = newest
    if ended:
        rows[follower] = [text, high + 1, newest]
        order.insert(order.index(ended) + 1, follower)
    match = re.search(r"match tag \{", body)
    if match:
        arms, _ = block(body, match.end() - 1)
        for arm in re.finditer(r"(\d+) => \{", arms):
            inside, _ = block(arms, arm.end() - 1)
            read = re.search(r"(\w+) = (types::.*?\.decode\(buf\)\?);", inside, re.S)
            since = re.search(r"version >= (\d+)", inside)
            until = re.search(r"version <= (\d+)", inside)
            text, _ = shape(leaf(read.group(2), low), fields[read.group(1)], structs)
            tags.append((int(arm.group(1)), read.group(1), text, int(since.group(1)) if since else low,
                         int(until.group(1)) if until else newest))
    out = [f"static {constant}: Layout = Layout {{"]
    out.append(f"    flexible_since: {flexible if flexible is not None else 'NEVER'},")
    out.append("    fields: &[")
    for name in order:
        text, since, until = rows[name]
        out.append(f"        Field {{ since: {since}, until: {until}, shape: {text} }}, // {name}")
    out.append("    ],")
    out.append("    tagged: &[")
    for tag, name, text, since, until in tags:
        out.append(f"        Tagged {{ tag: {tag}, since: {since}, until: {until}, shape: {text} }}, // {name}")
    out.append("    ],")
    out.append("};")
    return "\n".join(out)


def main():
    root = Path(sys.argv[1]) / "src"
    keys = dict(re.findall(r"^    (\w+) = (\d+),$", (root / "messages.rs").read_text(), re.M))
    print("//! Where counts, lengths and nulls stand in every request body: facts of the protocol.\n//!")
    print("//! Written by `layout/generate.py`; change that, not this.\n")
    print("use super::walk::{Field, Layout, NEVER, Shape, Tagged};\n")
    table = []
    for request in REQUESTS:
        source = (root / "messages" / f"{request}_request.rs").read_text()
        camel = "".join(part.capitalize() for part in request.split("_"))
        declared = {}
        for found in re.finditer(r"/// Valid versions: (\d+)(?:-(\d+))?\n(?:#\[.*\]\n)*pub struct (\w+) \{", source):
            fields, _ = block(source, found.end() - 1)
            low = int(found.group(1))
            high = int(found.group(2)) if found.group(2) else low
            declared[found.group(3)] = (low, high, dict(re.findall(r"pub (\w+): (.*),", fields)))
        prefix = request.upper()
        top = f"{camel}Request"
        # The top struct last; inner structs may refer to each other.
        constants = {name: f"{prefix}_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() for name in declared if name != top}
        for name, (low, high, fields) in declared.items():
            body = re.search(rf"impl Decodable for {name} \{{\n    fn decode.*?\n    \}}\n", source, re.S).group(0)
            constant = constants.get(name, prefix)
            print(layout(request, name, fields, body, low, high, constants, constant) + "\n")
        table.append((int(keys[camel]), prefix))
    print("/// The layout of the request with this key, if it is one of ours.")
    print("pub(super) fn of_request(api_key: i16) -> Option<&'static Layout> {\n    match api_key {")
    for key, prefix in sorted(table):
        print(f"        {key} => Some(&{prefix}),")
    print("        _ => None,\n    }\n}")


main()
