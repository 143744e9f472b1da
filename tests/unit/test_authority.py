"""Certificates and revocation lists."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleet.authority import LIST_LIFE, Authority, is_aging, revoked_serials

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """An authority."""
    return Authority.new("test", NOW)


def test_a_later_list_is_newer_by_its_date_also_within_a_second(authority: Authority) -> None:
    """OpenSSL takes the list with the latest date, in seconds; ten revocations in one second must each count."""
    lists = [authority.revocation_list([], NOW, None)]
    for serial in range(1, 11):
        lists.append(authority.revocation_list(range(1, serial + 1), NOW, lists[-1]))
    dates = [x509.load_pem_x509_crl(each).last_update_utc for each in lists]
    assert len(set(dates)) == len(dates)
    assert dates == sorted(dates)
    assert all(date < NOW for date in dates)  # one from the future counts for nobody


def test_a_list_says_who_is_on_it_and_when_it_gets_old(authority: Authority) -> None:
    """It is made again long before it expires, because an expired list locks everybody out."""
    made = authority.revocation_list([5, 7], NOW, None)
    assert revoked_serials(made) == {5, 7}
    assert not is_aging(made, NOW + timedelta(days=1))
    assert is_aging(made, NOW + LIST_LIFE - timedelta(days=1))


def test_servers_cannot_log_in_and_logins_cannot_serve(authority: Authority) -> None:
    """Each certificate is for one use, and none but the authority's signs."""

    def uses(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    server = authority.server("broker.example", NOW).certificate
    login = authority.login("n1", NOW, timedelta(days=7)).certificate
    assert uses(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert uses(login) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    for certificate, signs in ((server, False), (login, False), (authority.certificate, True)):
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is signs
    assert login.not_valid_after_utc == NOW + timedelta(days=7)


@pytest.mark.parametrize("host", ["broker.example", "192.0.2.7", "2001:db8::1"])
def test_a_server_is_known_by_its_host(authority: Authority, host: str) -> None:
    """Names and addresses stand in the certificate as what they are."""
    names = authority.server(host, NOW).certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in names.value] == [host]
