"""Folders made, renamed and deleted on servers that answer oddly, and where folders stand."""

from __future__ import annotations

import pytest

from connectors.errors import FolderGoneError, Retry, ServerError, ThrottledError
from connectors.model import Namespace, SpecialUse
from tests.unit.connectors.scripted import PLAIN, Talk, talking

SEEN = frozenset({"\\Seen"})


async def test_a_folder_with_a_use_that_the_server_gives_or_not() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b'CREATE "a" (USE (\\Trash))')
        await talk.answer(b'SUBSCRIBE "a"', status=b"NO not here")
        await talk.answer(b'CREATE "b" (USE (\\Sent))', status=b"NO [USEATTR] there is one")
        await talk.answer(b'CREATE "b"')
        await talk.answer(b'SUBSCRIBE "b"')
        await talk.answer(b'CREATE "c"')
        await talk.answer(b'SUBSCRIBE "c"', status=b"BAD what")

    async with talking(script, PLAIN + b" CREATE-SPECIAL-USE", selected=False) as line:
        await line.create_folder("a", SpecialUse.TRASH)
        await line.create_folder("b", SpecialUse.SENT)
        await line.create_folder("c", SpecialUse.INBOX)

    async def plain(talk: Talk) -> None:
        await talk.answer(b'CREATE "a"')
        await talk.answer(b'SUBSCRIBE "a"')

    async with talking(plain, selected=False) as line:
        await line.create_folder("a", SpecialUse.TRASH)


async def test_the_subscription_follows_a_renamed_and_a_deleted_folder() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(
            b'LSUB "" "a*"',
            b'* LSUB () "/" a/c',
            b'* LSUB () "/" ab',
            b"* LSUB () NIL a/d",
            b'* LSUB (\\Noselect) "/" a/e',
            b'* LSUB () "/" a',
        )
        await talk.answer(b'RENAME "a" "b"')
        await talk.answer(b'SUBSCRIBE "b"', status=b"NO no")
        await talk.answer(b'UNSUBSCRIBE "a"', status=b"NO it was not")
        await talk.answer(b'SUBSCRIBE "b/c"')
        await talk.answer(b'UNSUBSCRIBE "a/c"')
        await talk.answer(b'LSUB "" "b*"', status=b"BAD what")
        await talk.answer(b'RENAME "b" "c"')
        await talk.answer(b'SUBSCRIBE "c"')
        await talk.answer(b'UNSUBSCRIBE "b"')
        await talk.answer(b'DELETE "c"')
        await talk.answer(b'UNSUBSCRIBE "c"', status=b"NO no")

    async with talking(script) as line:
        await line.rename_folder("a", "b")
        await line.rename_folder("b", "c")
        await line.delete_folder("c")

    async def rev2(talk: Talk) -> None:
        await talk.answer(b'LIST (SUBSCRIBED) "" "a*"', b'* LIST (\\Subscribed) "/" a')
        await talk.answer(b'RENAME "a" "b"')
        await talk.answer(b'SUBSCRIBE "b"')
        await talk.answer(b'UNSUBSCRIBE "a"')
        await talk.answer(b'SUBSCRIBE "b"', status=b"NO no")
        await talk.answer(b'LIST (SUBSCRIBED) "" "a*"')
        await talk.answer(b'SUBSCRIBE "b"')
        await talk.answer(b'UNSUBSCRIBE "a"')

    async with talking(rev2, b"IMAP4rev2", selected=False) as line:
        await line.rename_folder("a", "b")
        await line.resubscribe(None, "b")
        await line.resubscribe("a", "b")


async def test_a_folder_that_can_have_none_inside_it() -> None:
    async def script(talk: Talk) -> None:
        no = b"NO Mailbox name is invalid"
        namespace = b'* NAMESPACE (("" "/")) NIL NIL'
        await talk.answer(b'CREATE "a/b/c"', status=no)
        await talk.answer(b'LIST "" "a/b/c"')
        await talk.answer(b"NAMESPACE", namespace)
        await talk.answer(b'LIST "" "a/b"')
        await talk.answer(b'LIST "" "a"', b'* LIST (\\Noinferiors) "/" a')
        await talk.answer(b'LSUB "" "x*"')
        await talk.answer(b'RENAME "x" "inbox/x"', status=b"NO [CANNOT] no")
        await talk.answer(b"NAMESPACE", namespace)
        await talk.answer(b'LIST "" "inbox"', b'* LIST (\\NoInferiors) "/" INBOX')
        await talk.answer(b'CREATE "d/e"', status=b"NO [CANNOT] no")
        await talk.answer(b"NAMESPACE", namespace)
        await talk.answer(b'LIST "" "d"', b'* LIST () "/" d')
        await talk.answer(b'CREATE "d/e"', status=b"NO [OVERQUOTA] no")

    async with talking(script, PLAIN + b" NAMESPACE", selected=False) as line:
        with pytest.raises(
            ServerError, match="allows no folders inside 'a': CREATE was answered NO: Mailbox"
        ) as refused:
            await line.create_folder("a/b/c")
        assert (refused.value.code, refused.value.retry) == ("CANNOT", Retry.NEVER)
        with pytest.raises(ServerError, match="allows no folders inside 'inbox'"):
            await line.rename_folder("x", "inbox/x")
        for code in ("CANNOT", "OVERQUOTA"):
            with pytest.raises(ServerError, match=r"^CREATE was answered") as refused:
                await line.create_folder("d/e")
            assert refused.value.code == code


async def test_the_open_folder_is_left_before_it_goes() -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"UNSELECT")
        await talk.answer(b'DELETE "INB"')
        await talk.answer(b"UNSUBSCRIBE")

    async with talking(script) as line:
        await line.delete_folder("INB")  # INBOX may be inside it, whatever stands between the names

    async def without(talk: Talk) -> None:
        await talk.answer(b'SELECT "a"', b"* 0 EXISTS", b"* OK [UIDVALIDITY 1] x")
        await talk.answer(b'EXAMINE "INBOX"', b"* 0 EXISTS", b"* OK [UIDVALIDITY 1] x")
        await talk.answer(b'LSUB "" "a*"')
        await talk.answer(b'RENAME "a" "b"')

    async with talking(without, b"IMAP4rev1") as line:
        await line.select("a")
        await line.rename_folder("a", "b")
        with pytest.raises(ValueError):
            await line.store_flags([1], add=SEEN)


async def test_a_refusal_without_a_code_is_explained_by_what_is_there() -> None:
    async def script(talk: Talk) -> None:
        no = b"NO Cannot do that"
        await talk.answer(b'CREATE "a"', status=no)
        await talk.answer(b'LIST "" "a"', b'* LIST () "/" a')
        await talk.answer(b'CREATE "b*"', status=no)
        await talk.answer(b'LIST "" "b*"', b'* LIST () "/" ba', b'* LIST (\\Noselect) "/" b*')
        await talk.answer(b'LIST "" "*"', b'* LIST () "/" INBOX')
        await talk.answer(b'LSUB "" "a*"')
        await talk.answer(b'RENAME "a" "b"', status=no)
        await talk.answer(b'LIST "" "a"')
        await talk.answer(b'LSUB "" "a*"')
        await talk.answer(b'RENAME "a" "b"', status=no)
        await talk.answer(b'LIST "" "a"', b'* LIST () "/" a')
        await talk.answer(b'LIST "" "b"', b'* LIST () "/" b')
        await talk.answer(b'DELETE "a"', status=no)
        await talk.answer(b'LIST "" "a"')
        await talk.answer(b'DELETE "a"', status=no)
        await talk.answer(b'LIST "" "a"', b'* LIST () "/" a')
        await talk.answer(b'DELETE "a"', status=b"NO [INUSE] x")

    async with talking(script) as line:
        with pytest.raises(ServerError) as refused:
            await line.create_folder("a")
        assert (type(refused.value), refused.value.code) == (ServerError, "ALREADYEXISTS")
        with pytest.raises(ServerError) as refused:
            await line.create_folder("b*")
        assert (type(refused.value), refused.value.code) == (ServerError, None)
        with pytest.raises(FolderGoneError):
            await line.rename_folder("a", "b")
        with pytest.raises(ServerError) as refused:
            await line.rename_folder("a", "b")
        assert (type(refused.value), refused.value.code) == (ServerError, "ALREADYEXISTS")
        with pytest.raises(FolderGoneError):
            await line.delete_folder("a")
        with pytest.raises(ServerError) as refused:
            await line.delete_folder("a")
        assert (type(refused.value), refused.value.code) == (ServerError, None)
        with pytest.raises(ThrottledError):
            await line.delete_folder("a")


async def test_a_refusal_that_not_even_list_explains_is_told_as_it_was() -> None:
    """Courier understands neither CREATE nor LIST with an emoji."""

    async def script(talk: Talk) -> None:
        await talk.answer(b'CREATE "&2D3eQg-"', status=b"NO Error in IMAP command")
        await talk.answer(b'LIST "" "&2D3eQg-"', status=b"NO Error in IMAP command received by server.")

    async with talking(script) as line:
        with pytest.raises(ServerError, match="CREATE was answered NO") as refused:
            await line.create_folder("🙂")
    assert (refused.value.code, refused.value.retry) == (None, Retry.NEVER)


@pytest.mark.parametrize(
    ("capabilities", "lines", "expected"),
    [
        (b"NAMESPACE", [b'* NAMESPACE (("INBOX." ".")) NIL NIL'], Namespace("INBOX.", ".")),
        (b"NAMESPACE", [b'* NAMESPACE (("&AOk-/" "/")("" "/")) NIL NIL'], Namespace("é/", "/")),
        (b"NAMESPACE", [b'* NAMESPACE (("" NIL)) NIL NIL'], Namespace("", None)),
        (b"", [b'* LIST () "." INBOX', b'* LIST () "." INBOX.a'], Namespace("INBOX.", ".")),
        (b"", [b'* LIST () "/" inbox', b'* LIST () "/" INBOX/a', b'* LIST () "/" b'], Namespace("", "/")),
        (b"", [b'* LIST () "/" INBOX'], Namespace("", "/")),
        (b"", [b"* LIST () NIL INBOX", b"* LIST () NIL a"], Namespace("", None)),
        (b"", [], Namespace("", None)),
    ],
)
async def test_where_folders_stand(capabilities: bytes, lines: list[bytes], expected: Namespace) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"NAMESPACE" if capabilities else b'LIST "" "*"', *lines)

    async with talking(script, PLAIN + b" " + capabilities, selected=False) as line:
        assert await line.namespace() == expected


@pytest.mark.parametrize(
    ("lines", "status"),
    [([b"* NAMESPACE NIL NIL NIL"], b"OK x"), ([b"* NAMESPACE what"], b"OK x"), ([], b"OK x"), ([], b"NO x")],
)
async def test_a_namespace_that_is_not_told_is_guessed(lines: list[bytes], status: bytes) -> None:
    async def script(talk: Talk) -> None:
        await talk.answer(b"NAMESPACE", *lines, status=status)
        await talk.answer(b'LIST "" "*"', b'* LIST () "." INBOX.a')

    async with talking(script, PLAIN + b" NAMESPACE", selected=False) as line:
        assert await line.namespace() == Namespace("INBOX.", ".")
