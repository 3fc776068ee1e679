"""What the generated people write: per language their names, greetings and matters of business.

All persons, companies and domains are invented; domains end in .example (RFC 2606). Placeholders: {n} a running number,
{amount} a sum of money, {day} a day, {count} a small number, {name} the first name of whom the mail goes to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Voice:
    """How people of one language write mail."""

    language: str
    charsets: tuple[str, ...]
    """What their programs encode with; the first is the most common. Text that it can not hold goes out as UTF-8."""
    people: tuple[str, ...]
    greeting: str
    closing: str
    reply: str
    """Prefix of a reply's subject."""
    wrote: str
    """Line above a quotation."""
    days: tuple[str, ...]
    matters: tuple[tuple[str, tuple[str, ...]], ...]
    """Subject, and sentences of which some are taken."""


ENGLISH = Voice(
    "en",
    ("us-ascii", "utf-8", "windows-1252"),
    ("Grace Okafor", "Tom Bellweather", "Priya Raman", "Liam O’Dowd", "Hannah Fairweather", "Marcus Tillery"),
    "Hi {name},",
    "Best regards,",
    "Re",
    "On {day}, {who} wrote:",
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    (
        (
            "Quote {n} for the annual licence",
            (
                "thank you for the call this morning.",
                "Please find the quote over {amount} attached; it holds until {day}.",
                "We could start with {count} seats and grow later.",
                "If purchasing needs another format, tell me and I will send it the same day.",
                "The discount applies when the order reaches us this quarter.",
            ),
        ),
        (
            "Delivery of order {n}",
            (
                "your order left our warehouse and should arrive on {day}.",
                "One of the {count} parcels travels separately.",
                "Could somebody sign for it at the loading bay?",
                "The tracking page updates about every two hours.",
            ),
        ),
        (
            "Minutes of {day}'s meeting",
            (
                "here is what we agreed on.",
                "Action {n}: the data export is tested with {count} customers first.",
                "The budget stays at {amount} until the review.",
                "Please correct me where I misheard you.",
                "Next meeting is on {day}, same room.",
            ),
        ),
        (
            "Ticket {n}: export stops halfway",
            (
                "since the update on {day} the export stops after about {count} thousand rows.",
                "There is no message, the bar just stays where it is.",
                "I attached the log of the last attempt.",
                "A colleague on another machine sees the same.",
                "Restarting helps for a while.",
            ),
        ),
        (
            "Contract renewal",
            (
                "our contract {n} ends in {count} weeks.",
                "Legal has two small changes in clause 4.",
                "We would like to keep the price of {amount} for another year.",
                "Could we sign it by {day}?",
            ),
        ),
        (
            "Lunch on {day}?",
            ("are you in town this week?", "There is a new place by the river.", "I will bring the samples."),
        ),
    ),
)

GERMAN = Voice(
    "de",
    ("iso-8859-1", "utf-8", "iso-8859-15"),
    ("Jürgen Weißmüller", "Käthe Grünwald", "Sören Böttcher", "Anneliese Größing"),
    "Guten Tag {name},",
    "Mit freundlichen Grüßen",
    "AW",
    "Am {day} schrieb {who}:",
    ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag"),
    (
        (
            "Angebot Nr. {n} über Prüfgeräte",
            (
                "vielen Dank für Ihre Anfrage.",
                "Das Angebot über {amount} finden Sie im Anhang.",
                "Die Lieferung wäre ab {day} möglich.",
                "Für größere Stückzahlen gewähren wir {count} % Nachlass.",
            ),
        ),
        (
            "Rückfrage zur Rechnung {n}",
            (
                "in der Rechnung fehlt unsere Bestellnummer.",
                "Könnten Sie uns bis {day} eine korrigierte Fassung schicken?",
                "Der Betrag von {amount} stimmt.",
                "Die Buchhaltung schließt den Monat in {count} Tagen ab.",
            ),
        ),
        (
            "Terminvorschlag für die Übergabe",
            ("passt Ihnen {day} um {count} Uhr?", "Wir bräuchten etwa eine Stunde.", "Die Schlüssel bringe ich mit."),
        ),
    ),
)

FRENCH = Voice(
    "fr",
    ("utf-8", "iso-8859-1", "windows-1252"),
    ("Hélène Beaufrère", "François Château-Roux", "Zoé Lefèvre", "Aïcha Benoît"),
    "Bonjour {name},",
    "Bien cordialement,",
    "RE",
    "Le {day}, {who} a écrit :",
    ("lundi", "mardi", "mercredi", "jeudi", "vendredi"),
    (
        (
            "Devis n° {n} révisé",
            (
                "je vous transmets le devis révisé de {amount}.",
                "La remise reste acquise jusqu’à {day}.",
                "N’hésitez pas à me rappeler.",
                "Nous pouvons livrer en {count} étapes.",
            ),
        ),
        (
            "Réunion de {day} à l’hôtel",
            (
                "la salle est réservée pour {count} personnes.",
                "Le déjeuner sera servi à midi.",
                "Merci de confirmer votre présence.",
            ),
        ),
    ),
)

SPANISH = Voice(
    "es",
    ("utf-8", "iso-8859-15"),
    ("Íñigo Peñalver", "María José Núñez", "Begoña Ibáñez"),
    "Hola {name}:",
    "Un cordial saludo,",
    "Re",
    "El {day}, {who} escribió:",
    ("lunes", "martes", "miércoles", "jueves", "viernes"),
    (
        (
            "Presupuesto {n} para la campaña de otoño",
            (
                "adjunto el presupuesto de {amount}.",
                "¿Podríamos cerrarlo antes del {day}?",
                "Incluye {count} reuniones de seguimiento.",
                "El año pasado funcionó muy bien.",
            ),
        ),
        ("Envío retrasado {n}", ("el camión llegará el {day}.", "Lamentamos el retraso de {count} días.")),
    ),
)

POLISH = Voice(
    "pl",
    ("iso-8859-2", "utf-8"),
    ("Łukasz Święcicki", "Małgorzata Źrebiec", "Żaneta Dąbek"),
    "Dzień dobry {name},",
    "Z poważaniem",
    "Odp",
    "W {day} {who} pisze:",
    ("poniedziałek", "wtorek", "środę", "czwartek", "piątek"),
    (
        (
            "Zamówienie {n} – części zamienne",
            (
                "potwierdzamy przyjęcie zamówienia na kwotę {amount}.",
                "Wysyłka nastąpi w {day}.",
                "Proszę o podanie adresu dostawy.",
                "Mamy jeszcze {count} sztuk w magazynie.",
            ),
        ),
    ),
)

GREEK = Voice(
    "el",
    ("iso-8859-7", "utf-8"),
    ("Ελένη Παππά", "Γιώργος Ξενάκης"),
    "Γεια σας {name},",
    "Με εκτίμηση",
    "Απ",
    "Την {day} ο χρήστης {who} έγραψε:",
    ("Δευτέρα", "Τρίτη", "Τετάρτη", "Πέμπτη", "Παρασκευή"),
    (
        (
            "Προσφορά αρ. {n}",
            (
                "σας στέλνουμε την προσφορά των {amount}.",
                "Ισχύει έως την {day}.",
                "Χρειαζόμαστε {count} αντίγραφα υπογεγραμμένα.",
            ),
        ),
    ),
)

RUSSIAN = Voice(
    "ru",
    ("koi8-r", "utf-8", "windows-1251"),
    ("Светлана Щукина", "Фёдор Ельников", "Юлия Цветаева"),
    "Здравствуйте, {name}!",
    "С уважением,",
    "Re",
    "{day}, {who} пишет:",
    ("понедельник", "вторник", "среда", "четверг", "пятница"),
    (
        (
            "Счёт № {n} за обслуживание",
            (
                "направляем счёт на сумму {amount}.",
                "Просим оплатить до конца недели.",
                "Акт сверки приложен к письму.",
                "Осталось {count} неподписанных договора.",
            ),
        ),
        ("Вопрос по объёму поставки", ("уточните, пожалуйста, количество.", "Нам нужно {count} комплектов.")),
    ),
)

JAPANESE = Voice(
    "ja",
    ("iso-2022-jp", "utf-8", "shift_jis"),
    ("佐々木 結衣", "高橋 大輔", "小林 さくら"),
    "{name} 様",
    "よろしくお願いいたします。",
    "Re",
    "{day} {who} さんは書きました:",
    ("月曜日", "火曜日", "水曜日", "木曜日", "金曜日"),
    (
        (
            "お見積書（{n}）送付のご案内",
            (
                "いつも大変お世話になっております。",
                "お見積書を添付いたしましたので、ご確認ください。",
                "金額は{amount}となります。",
                "納期は{count}週間ほどを予定しております。",
                "ご不明な点がございましたら、お気軽にお問い合わせください。",
            ),
        ),
        ("{day}の打ち合わせについて", ("会議室を{count}名で予約しました。", "資料は前日までにお送りします。")),
    ),
)

CHINESE = Voice(
    "zh",
    ("gb2312", "utf-8", "gb18030"),
    ("李晓梅", "陈建国", "王思远"),
    "{name}，您好！",
    "此致敬礼",
    "回复",
    "{who} 于 {day} 写道：",
    ("星期一", "星期二", "星期三", "星期四", "星期五"),
    (
        (
            "关于合同 {n} 的修改意见",
            (
                "附件是修改后的合同，请查收。",
                "总金额为 {amount}。",
                "请在{day}之前回复确认。",
                "我们还需要 {count} 份盖章的原件。",
            ),
        ),
        ("样品已经寄出", ("样品共 {count} 箱，单号 {n}。", "预计{day}到达。")),
    ),
)

KOREAN = Voice(
    "ko",
    ("euc-kr", "utf-8"),
    ("김서연", "박지훈"),
    "{name}님, 안녕하세요.",
    "감사합니다.",
    "Re",
    "{day}, {who} 님이 작성:",
    ("월요일", "화요일", "수요일", "목요일", "금요일"),
    (
        (
            "견적서 {n} 검토 부탁드립니다",
            (
                "요청하신 견적서를 첨부합니다.",
                "금액은 {amount}입니다.",
                "{day}까지 회신 부탁드립니다.",
                "수량은 {count}개 기준입니다.",
            ),
        ),
    ),
)

ARABIC = Voice(
    "ar",
    ("utf-8", "windows-1256"),
    ("ليلى الحدّاد", "يوسف المنصور"),
    "مرحباً {name}،",
    "مع أطيب التحيات",
    "رد",
    "كتب {who} يوم {day}:",
    ("الاثنين", "الثلاثاء", "الأربعاء", "الخميس", "الجمعة"),
    (
        (
            "عرض السعر رقم {n}",
            ("نرفق لكم عرض السعر بقيمة {amount}.", "يسري العرض حتى يوم {day}.", "نحتاج إلى {count} نسخ موقعة."),
        ),
    ),
)

HEBREW = Voice(
    "he",
    ("utf-8", "iso-8859-8"),
    ("נועה שקד", "איתן ברק"),
    "שלום {name},",
    "בברכה",
    "השב",
    "ביום {day}, {who} כתב:",
    ("שני", "שלישי", "רביעי", "חמישי", "שישי"),
    (("הצעת מחיר {n}", ("מצורפת הצעת המחיר על סך {amount}.", "נשמח לתשובה עד יום {day}.", "מדובר ב-{count} יחידות.")),),
)

TURKISH = Voice(
    "tr",
    ("iso-8859-9", "utf-8"),
    ("Gülşen Yıldız", "Çağrı Özdoğan"),
    "Merhaba {name},",
    "Saygılarımla,",
    "Ynt",
    "{day} günü {who} şunu yazdı:",
    ("Pazartesi", "Salı", "Çarşamba", "Perşembe", "Cuma"),
    (
        (
            "Sipariş {n} onayı",
            (
                "siparişinizi aldık, tutarı {amount}.",
                "Kargo {day} çıkacak.",
                "Stokta {count} adet kaldı.",
                "İyi çalışmalar.",
            ),
        ),
    ),
)

HINDI = Voice(
    "hi",
    ("utf-8",),
    ("अनन्या वर्मा", "रोहित जोशी"),
    "नमस्ते {name},",
    "धन्यवाद,",
    "Re",
    "{day} को {who} ने लिखा:",
    ("सोमवार", "मंगलवार", "बुधवार", "गुरुवार", "शुक्रवार"),
    (
        (
            "चालान {n} की पुष्टि",
            (
                "कृपया {amount} का चालान देखें।",
                "भुगतान {day} तक अपेक्षित है।",
                "कुल {count} प्रतियाँ भेजी जा रही हैं।",
            ),
        ),
    ),
)

VOICES = (
    ENGLISH,
    GERMAN,
    FRENCH,
    SPANISH,
    POLISH,
    GREEK,
    RUSSIAN,
    JAPANESE,
    CHINESE,
    KOREAN,
    ARABIC,
    HEBREW,
    TURKISH,
    HINDI,
)

COMPANIES = (
    ("Northwind Fittings", "northwind-fittings.example"),
    ("Halberd & Sons", "halberd-sons.example"),
    ("Brightwater Logistics", "brightwater.example"),
    ("Kestrel Instruments", "kestrel-instruments.example"),
    ("Oakmere Dental Supply", "oakmere.example"),
    ("Lumen Print House", "lumenprint.example"),
    ("Tallgrass Foods", "tallgrass.example"),
    ("Verdigris Metals", "verdigris.example"),
    ("Pepperwood Events", "pepperwood.example"),
    ("Silverbirch Clinics", "silverbirch.example"),
    ("Umbra Lighting", "umbra-lighting.example"),
    ("Quillon Legal", "quillon.example"),
    ("Bluetit Software", "bluetit.example"),
    ("Saltmarsh Boats", "saltmarsh.example"),
)

NEWSLETTERS = (
    (
        "The Warehouse Weekly",
        "warehouse-weekly.example",
        (
            "Five shelves that think for themselves",
            "What pallets will cost next spring",
            "Reader question: how cold is too cold?",
            "The quiet return of the paper label",
        ),
    ),
    (
        "Ledger & Light",
        "ledgerlight.example",
        ("Closing the year without tears", "Three mistakes in expense reports", "E-invoices: what changes in January"),
    ),
    (
        "City Transit Updates",
        "transit-updates.example",
        ("Line 4 stops early this weekend", "New ticket zones from Monday", "Bridge works: plan ten minutes more"),
    ),
)

NOTICES = (
    ("Your backup finished", "backup@cloudcellar.example", "The backup of {day} finished: {count} GB, no errors."),
    ("Build {n} failed", "ci@bluetit.example", "Job {n} failed in step {count}: exit status 1.\nThe log is attached."),
    ("New sign-in to your account", "security@cloudcellar.example", "A new device signed in on {day}. Was it you?"),
    ("Invoice {n} is paid", "billing@payfjord.example", "We received {amount} for invoice {n}. Thank you."),
)
