"""LIST entries → folders: names decoded, special uses found (RFC 6154; names as the fallback). Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from connectors.imap.quirks import ATTRIBUTES
from connectors.imap.responses import ListItem
from connectors.imap.utf7 import decode_name
from connectors.model import Folder, SpecialUse

# What mail programs and providers call these folders, in the order of preference within one use. Compared without
# case, accents and anything but letters and digits. Only whole names at the top (or right below INBOX or [Gmail])
# count.
_NAMES: Final[dict[SpecialUse, tuple[str, ...]]] = {
    SpecialUse.SENT: (
        "Sent", "Sent Items", "Sent Messages", "Sent Mail", "Gesendet", "Gesendete Elemente", "Gesendete Objekte",
        "Envoyés", "Éléments envoyés", "Messages envoyés", "Enviados", "Elementos enviados", "Mensajes enviados",
        "Itens enviados", "Posta inviata", "Inviati", "Inviata", "Verzonden", "Verzonden items", "Wysłane",
        "Elementy wysłane", "Отправленные", "Исходящие отправленные", "Надіслані", "Відправлені", "Đã gửi",
        "Thư đã gửi",
        "Skickat", "Skickade objekt", "Sendt", "Sendt post", "Sendte elementer", "Lähetetyt", "Odeslané",
        "Odeslaná pošta", "Odoslané", "Elküldött", "Elküldött elemek", "Trimise", "Elemente trimise", "Απεσταλμένα",
        "Gönderilmiş Öğeler", "Gönderilenler", "送信済み", "送信済みアイテム", "已发送", "已发送邮件", "已傳送",
        "寄件備份",
        "보낸 편지함", "보낸편지함", "ส่งแล้ว", "Terkirim", "Poslano", "Изпратени", "البريد المرسل", "נשלחו",
    ),
    SpecialUse.DRAFTS: (
        "Drafts", "Draft", "Entwürfe", "Brouillons", "Borradores", "Rascunhos", "Bozze", "Concepten", "Szkice",
        "Kopie robocze", "Robocze", "Черновики", "Чернетки", "Thư nháp", "Nháp", "Bản nháp", "Utkast", "Kladder",
        "Luonnokset", "Koncepty", "Rozpracované", "Piszkozatok", "Ciorne", "Πρόχειρα", "Taslaklar", "下書き", "草稿",
        "草稿箱", "임시 보관함", "임시보관함", "ร่างจดหมาย", "Draf", "Konsep", "Чернови", "المسودات", "טיוטות",
    ),
    SpecialUse.TRASH: (
        "Trash", "Deleted Items", "Deleted Messages", "Deleted", "Bin", "Papierkorb", "Gelöscht", "Gelöschte Elemente",
        "Gelöschte Objekte", "Corbeille", "Éléments supprimés", "Messages supprimés", "Papelera",
        "Elementos eliminados",
        "Papelera de reciclaje", "Lixeira", "Lixo", "Itens excluídos", "Itens eliminados", "Cestino", "Posta eliminata",
        "Elementi eliminati", "Prullenbak", "Verwijderde items", "Kosz", "Elementy usunięte", "Корзина", "Удаленные",
        "Удалённые", "Кошик", "Видалені", "Thùng rác", "Thư đã xóa", "Đã xóa", "Papperskorgen", "Borttagna objekt",
        "Papirkurv", "Slettet post", "Slettede elementer", "Roskakori", "Poistetut", "Koš", "Odstraněná pošta", "Kôš",
        "Lomtár", "Kuka", "Törölt elemek", "Coș de gunoi", "Elemente șterse", "Κάδος απορριμμάτων", "Διαγραμμένα",
        "Çöp Kutusu", "Silinmiş Öğeler", "ゴミ箱", "削除済みアイテム", "已删除", "已删除邮件", "垃圾桶", "刪除的郵件",
        "휴지통", "지운 편지함", "ถังขยะ", "Sampah", "Кошче", "Изтрити", "سلة المهملات", "אשפה",
    ),
    SpecialUse.JUNK: (
        "Junk", "Spam", "Junk E-mail", "Junk Email", "Junk Mail", "Bulk Mail", "Bulk", "Unerwünscht", "Junk-E-Mail",
        "Spamverdacht", "Courrier indésirable", "Indésirables", "Pourriel", "Correo no deseado", "No deseado",
        "Lixo eletrônico", "Lixo Eletrônico", "Posta indesiderata", "Ongewenste e-mail", "Ongewenst",
        "Wiadomości-śmieci",
        "Spam poczta", "Спам", "Нежелательная почта", "Небажана пошта", "Thư rác", "Skräppost", "Søppelpost",
        "Uønsket e-post", "Uønsket mail", "Roskaposti", "Nevyžádaná pošta", "Nevyžiadaná pošta", "Levélszemét",
        "Mesaje nedorite", "Ανεπιθύμητα", "Gereksiz", "Önemsiz E-posta", "迷惑メール", "垃圾邮件", "垃圾郵件", "스팸",
        "스팸메일함", "สแปม", "Нежелана поща", "البريد غير الهام", "דואר זבל",
    ),
    SpecialUse.ARCHIVE: (
        "Archive", "Archives", "Archiv", "Archivo", "Archivados", "Arquivo", "Archivio", "Archief", "Archiwum", "Архив",
        "Архів", "Lưu trữ", "Arkiv", "Arkisto", "Archivum", "Arhivă", "Αρχείο", "Arşiv", "アーカイブ", "存档", "归档",
        "封存", "보관", "Arsip", "الأرشيف", "ארכיון",
    ),
}  # fmt: skip

_MESSAGE_FLAGS: Final = frozenset({"\\seen", "\\answered", "\\deleted"})
"""No attributes of folders. Who names one tells what messages may have, and means no use by `\\Flagged` (Twisted)."""

_PARENTS: Final = frozenset({"inbox", "gmail", "googlemail"})


def _plain(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return re.sub(r"[\W_]+", "", "".join(c for c in decomposed if not unicodedata.combining(c)))


_BY_NAME: Final[dict[str, tuple[SpecialUse, int]]] = {
    _plain(name): (use, rank) for use, names in _NAMES.items() for rank, name in reversed(list(enumerate(names)))
}


def folder_name(raw: bytes) -> str:
    """INBOX is the only name without case (RFC 9051 §5.1); all others are kept to the letter."""
    return "INBOX" if raw.upper() == b"INBOX" else decode_name(raw)


def folders_of(items: Iterable[ListItem]) -> list[Folder]:
    """All folders once, INBOX first, then by name.

    A use belongs to whom an attribute gives it; of several only to those whose name means it, if there are any. Names
    are looked at else only for uses that no attribute names, and then the best name alone gets it. A folder that cannot
    be selected (RFC 9051 §7.3.1 \\Noselect, \\NonExistent) has no use.
    """
    by_name: dict[str, ListItem] = {}
    for item in items:
        name = folder_name(item.name)
        if name in by_name:
            item = ListItem(item.attributes | by_name[name].attributes, item.delimiter, item.name)
        by_name[name] = item
    uses: dict[str, SpecialUse] = {"INBOX": SpecialUse.INBOX}
    for name, item in by_name.items():
        if name != "INBOX" and _selectable(item) and not item.attributes & _MESSAGE_FLAGS:
            for attribute in sorted(item.attributes):
                if attribute in ATTRIBUTES:
                    uses[name] = ATTRIBUTES[attribute]
                    break
    meant = {name: use for name, use in uses.items() if name in by_name and _meaning(name, by_name[name])[0] is use}
    known = set(meant.values())
    uses = {name: use for name, use in uses.items() if name in meant or use not in known}
    _guess(by_name, uses)
    folders = [
        Folder(
            name=name,
            delimiter=item.delimiter,
            attributes=item.attributes,
            special_use=uses.get(name) if _selectable(item) else None,
            selectable=_selectable(item),
        )
        for name, item in by_name.items()
    ]
    return sorted(folders, key=lambda f: (f.name != "INBOX", f.name))


def _selectable(item: ListItem) -> bool:
    return not item.attributes & {"\\noselect", "\\nonexistent"}


def _guess(by_name: dict[str, ListItem], uses: dict[str, SpecialUse]) -> None:
    claimed = set(uses.values())
    best: dict[SpecialUse, tuple[int, str]] = {}
    for name, item in by_name.items():
        if name in uses or not _selectable(item):
            continue
        use, rank = _meaning(name, item)
        if use is not None and use not in claimed:
            best[use] = min((rank, name), best.get(use, (rank, name)))
    for use, (_, name) in best.items():
        uses[name] = use


def _meaning(name: str, item: ListItem) -> tuple[SpecialUse | None, int]:
    """The use that this name means, and how well it is known for it: 0 is best."""
    parts = name.split(item.delimiter) if item.delimiter else [name]
    if len(parts) > 2 or (len(parts) == 2 and _plain(parts[0]) not in _PARENTS):
        return None, 0
    return _BY_NAME.get(_plain(parts[-1]), (None, 0))
