"""Client certificates: whose they are, which CA may say so, and what ends them."""

import shutil
import ssl
import time

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from harness import env, sasl, wire
from harness.kafka_peer import Authority, common_name

pytestmark = pytest.mark.schloss_only

BOUND = 2.0  # seconds from a revocation until every connection it concerns is cut; the manual promises this


class Gate:
    """A broker whose tenants' client CAs are ours, so that we issue what we like."""

    def __init__(self, broker):
        self.broker = broker
        self.trust = broker.client().ca.read_text()
        self.numbers = iter(range(1000))
        self.own = {a: Authority(f"{a} second CA") for a in broker.tenants}
        for alias, authority in self.own.items():
            self.vouch(alias, authority.pem())
        env.eventually(lambda: all(self.name_of(self.issue(a, common_name("admin"))) for a in broker.tenants), timeout=15, what="the second CAs")

    def file(self, alias):
        return self.broker.folder / "certs" / "client-ca" / f"{alias}.pem"

    def vouch(self, alias, pem: bytes):
        draft = self.file(alias).with_suffix(".draft")
        draft.write_bytes(self.file(alias).read_bytes() + pem)
        draft.rename(self.file(alias))

    def issue(self, alias, subject, authority=None, **more):
        folder = self.broker.folder.parent / f"issued{next(self.numbers)}"
        creds = (authority or self.own[alias]).issue(folder, subject, **more)
        (folder / "ca.pem").write_text(self.trust)
        return creds

    def open(self, creds, **more):
        return wire.Raw(self.broker, context=creds.tls(), **more)

    def name_of(self, creds):
        """A metadata answer's cluster id, which is one per tenant; None when refused."""
        try:
            with self.open(creds) as raw:
                return served(raw)
        except (ssl.SSLError, wire.Closed, ConnectionError):
            return None


def served(raw):
    r = sasl.metadata(raw)
    return r.cluster_id if r.brokers else None


def is_cut(raw, timeout):
    raw.socket.settimeout(timeout)
    began = time.monotonic()
    try:
        raw.receive()
    except (wire.Closed, ssl.SSLError, ConnectionError):
        return time.monotonic() - began
    except TimeoutError:
        pass
    raise AssertionError(f"still open after {timeout} s")


def distinguished(*pairs):
    return x509.Name([x509.NameAttribute(k, v) for k, v in pairs])


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    from harness.broker import Schloss
    b = Schloss(tmp_path_factory.mktemp("mtls") / "broker")
    b.start()
    roles = b.organisation / "tenants" / "acme" / "roles"
    roles.mkdir(exist_ok=True)
    (roles / "reader.toml").write_text('policies = ["consumer"]\n')
    rules = b.organisation / "tenants" / "acme" / "certificates.toml"
    rules.write_text(rules.read_text() + '\n[[certificate]]\nuri = "spiffe://acme.example/ns/prod/reader"\nrole = "reader"\n'
                     '\n[[certificate]]\nsubject = "CN=the reader,OU=apps,O=Acme"\nrole = "reader"\n')
    g = Gate(b)
    yield g
    b.kill()


def test_a_second_ca_of_a_tenant_vouches_for_it_and_for_no_other(gate):
    acme, globex = (gate.name_of(gate.issue(a, common_name("admin"))) for a in ("acme", "globex"))
    assert acme and globex and acme != globex, "the same common name under two CAs is two principals of two tenants"


def test_a_ca_no_tenant_named_vouches_for_nobody(gate):
    assert gate.name_of(gate.issue("acme", common_name("admin"), authority=Authority("stranger"))) is None


def test_a_ca_with_the_name_of_a_tenants_ca_but_another_key_vouches_for_nobody(gate):
    assert gate.name_of(gate.issue("acme", common_name("admin"), authority=Authority("acme second CA"))) is None


def test_a_subject_no_rule_names_is_refused(gate):
    assert gate.name_of(gate.issue("acme", common_name("stranger"))) is None


def test_a_spiffe_id_is_a_role(gate):
    assert gate.name_of(gate.issue("acme", common_name("any"), uris=("spiffe://acme.example/ns/prod/reader",)))


@pytest.mark.parametrize("uris", [
    ("spiffe://acme.example/ns/prod/other",), ("spiffe://globex.example/ns/prod/reader",), ("spiffe://acme.example/ns/prod/reader/",),
    ("https://acme.example/ns/prod/reader",), ("spiffe://acme.example/ns/prod/reader", "spiffe://acme.example/ns/prod/other"),
])
def test_another_spiffe_id_or_two_of_them_are_nobody(gate, uris):
    assert gate.name_of(gate.issue("acme", common_name("any"), uris=uris)) is None


def test_a_spiffe_id_under_the_other_tenants_ca_is_nobody(gate):
    assert gate.name_of(gate.issue("globex", common_name("any"), uris=("spiffe://acme.example/ns/prod/reader",))) is None


def test_a_whole_distinguished_name_is_a_role(gate):
    right = distinguished((NameOID.ORGANIZATION_NAME, "Acme"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "apps"), (NameOID.COMMON_NAME, "the reader"))
    wrong = distinguished((NameOID.ORGANIZATION_NAME, "Acme"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "apps,CN=x"), (NameOID.COMMON_NAME, "the reader"))
    assert gate.name_of(gate.issue("acme", right)) and gate.name_of(gate.issue("acme", wrong)) is None


@pytest.fixture
def rules(gate):
    """Sets the tenant's mapping rules for one test."""
    path = gate.broker.organisation / "tenants" / "acme" / "tenant.toml"
    before = path.read_text()

    def put(text):
        draft = path.with_name(".tenant.draft")
        draft.write_text(before + text)
        draft.rename(path)

    yield put
    put("")


def services(name):
    return distinguished((NameOID.ORGANIZATION_NAME, "Acme"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "Services"), (NameOID.COMMON_NAME, name))


def test_kafkas_mapping_rules_make_a_user_of_a_subject(gate, rules):
    """`ssl.principal.mapping.rules`: the first rule that fits the whole name decides; `L` makes it lower case."""
    rules('\n[authentication]\nprincipal_mapping_rules = \'RULE:^CN=(.*?),OU=Services.*$/$1/L, RULE:^CN=x,OU=(.*)$/$1/\'\n')
    env.eventually(lambda: gate.name_of(gate.issue("acme", services("PRODUCER"))), timeout=10, what="the rules")
    assert gate.name_of(gate.issue("acme", services("Unknown-User"))) is None
    assert gate.name_of(gate.issue("globex", services("PRODUCER"))) is None, "the other tenant has no such rules"


def test_a_rule_makes_a_role_of_a_spiffe_id(gate, rules):
    rules("\n[authentication]\nspiffe_mapping_rules = 'RULE:^spiffe:\\/\\/acme.example\\/sa\\/(\\w+)$/role\\/$1/'\n")
    of = "spiffe://acme.example/sa/"
    env.eventually(lambda: gate.name_of(gate.issue("acme", common_name("any"), uris=(of + "reader",))), timeout=10, what="the rules")
    assert gate.name_of(gate.issue("acme", common_name("any"), uris=(of + "no-such-role",))) is None
    assert gate.name_of(gate.issue("acme", common_name("any"), uris=(of + "reader", of + "other"))) is None


def test_a_rule_that_only_java_can_run_is_refused_with_the_reason(gate, tmp_path):
    shutil.copytree(gate.broker.organisation, tmp_path / "draft")
    tenant = tmp_path / "draft" / "tenants" / "acme" / "tenant.toml"
    tenant.write_text(tenant.read_text() + "\n[authentication]\nprincipal_mapping_rules = 'RULE:^CN=(?!evil)(.*?),.*$/$1/'\n")
    done = gate.broker.run("iam", "validate", tmp_path / "draft")
    assert done.returncode == 1 and "look" in (done.stdout + done.stderr).lower(), done.stdout + done.stderr


def test_an_expired_certificate_is_refused(gate):
    assert gate.name_of(gate.issue("acme", common_name("admin"), seconds=-60)) is None


def test_a_certificate_that_expires_cuts_its_live_connection(gate, record_property):
    with gate.open(gate.issue("acme", common_name("admin"), seconds=3)) as raw:
        assert served(raw)
        took = is_cut(raw, 3 + BOUND)
        record_property("seconds_until_cut", round(took, 3))


def test_a_revoked_certificate_is_refused_and_its_live_connection_cut(gate, record_property):
    good, bad = gate.issue("acme", common_name("admin")), gate.issue("acme", common_name("admin"))
    with gate.open(good) as stays, gate.open(bad) as goes:
        assert served(stays) and served(goes)
        gate.vouch("acme", gate.own["acme"].revocation_list(x509.load_pem_x509_certificate(bad.cert.read_bytes())))
        took = is_cut(goes, BOUND)
        record_property("seconds_until_cut", round(took, 3))
        assert served(stays), "a certificate that nobody revoked was cut"
    assert gate.name_of(bad) is None and gate.name_of(good)


def test_a_revocation_list_of_one_tenants_ca_revokes_nothing_of_the_other(gate):
    mine = gate.issue("globex", common_name("admin"))
    gate.vouch("acme", gate.own["acme"].revocation_list(x509.load_pem_x509_certificate(mine.cert.read_bytes())))
    time.sleep(1.5)
    assert gate.name_of(mine)


def test_a_ca_that_is_withdrawn_cuts_what_it_vouched_for(gate, record_property):
    extra = Authority("acme third CA")
    before = gate.file("acme").read_bytes()
    gate.vouch("acme", extra.pem())
    creds = gate.issue("acme", common_name("admin"), authority=extra)
    env.eventually(lambda: gate.name_of(creds), timeout=15, what="the third CA")
    with gate.open(creds) as raw:
        assert served(raw)
        draft = gate.file("acme").with_suffix(".draft")
        draft.write_bytes(before)
        draft.rename(gate.file("acme"))
        record_property("seconds_until_cut", round(is_cut(raw, BOUND), 3))
    assert gate.name_of(creds) is None


def test_no_certificate_and_no_login_is_served_nothing(gate):
    with sasl.Sasl(gate.broker) as s:
        with pytest.raises((wire.Closed, ConnectionError, AssertionError)):
            assert s.is_let_in()
