"""A multilingual corpus from a seed: odd lines that try every corner of normalisers and pre-tokenisers, and plainer ones to train on."""
import random
import unicodedata

ENGLISH = """the quick brown fox jumps over lazy dog it's we'll they're don't I'm you've he'd boat harbour library market every morning
walks reading writing running quickly unbelievable internationalization tokenizer language models learn from text data and more data
State-of-the-art U.S.A. e-mail user@example.com https://example.org/path?q=1&r=2 $3.50 100% C++ x86_64 foo_bar hello_world""".split()
WORDS = {
    "latin": """café naïve Ångström façade über straße coöperate jalapeño señor garçon Dvořák Łódź Žižek Øresund þorn æther œuvre İstanbul
ışık ĲSSEL ǅungla ﬁnance ﬂower ﬃ Ǆ ŉ ẞ ſ Ｆｕｌｌ ｗｉｄｔｈ ½ ²³ ™ № Ⅷ ℵ Å Ω""".split(),
    "greek": "Ελλάδα λόγος ΣΊΣΥΦΟΣ ἄνθρωπος Ὀδυσσεύς ϐ ς Ωμέγα".split(),
    "cyrillic": "Привет мир Москва ёлка Київ їжак Ћуприја Ѡ Й й ў".split(),
    "cjk": "海边的城市很安静 東京 日本語 テキスト ﾃｷｽﾄ ひらがな カタカナ ー 漢字 你好，世界！ 㐀㐁 𠀀𠮷 豈 全角：（） 々 ㍿ ㈱ ①".split(),
    "hangul": "안녕하세요 세계 한국어 각 각 ᄒ 힣 ㄱㄴ".split(),
    "arabic": "مرحبا بالعالم السَّلامُ عَلَيْكُم ﷺ ﻻ ١٢٣ ؟ ـــ".split(),
    "hebrew": "שלום עולם שָׁלוֹם יִשְׂרָאֵל ״ ׳ ﬡ".split(),
    "indic": "नमस्ते दुनिया क़ लड़का ১২৩ বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം ෆ ਪੰਜਾਬੀ ો".split(),
    "thai": "สวัสดีชาวโลก ภาษาไทย น้ำ กำ ลาว ພາສາ ភាសាខ្មែរ မြန်မာ བོད་".split(),
    "other": "ქართული Հայերեն አማርኛ ᏣᎳᎩ ᚠᚢᚦ ⵜⴰⵎⴰⵣⵉⵖⵜ 𝒜𝓁𝑔𝑒𝒷𝓇𝒶 𐌰𐌱 ꦗꦮ".split(),
    "emoji": ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "☎", "1️⃣", "🧑🏿‍🚀", "♂️", "✈︎"],
    "digits": ["0", "7", "42", "1234567", "3.14", "1,000,000", "٣٤", "१२", "¼", "𝟘𝟙", "2024-11-22", "０１２"],
    "symbols": list("!?.,;:'\"()[]{}<>/\\|@#$%^&*-_=+~`…–—“”‘’«»¡¿§¶†‡•€£¥©®°±×÷≠∞→⇒∀∂∑√") + ["...", "--", "!!!", "?!", "''", "``", "▁", "##", "@@", "</w>"],
}
MARKS = ["\u0301", "\u0308", "\u0323", "\u0327", "\u0345", "\u20dd", "\u05b8", "\u064b", "\u093c", "\u0e34", "\u3099", "\u1ab0", "\ufe0f"]
BLANKS = ["  ", "   ", "\t", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\r", "\r\n", "\x0b", "\x0c", "\u1680", "\u202f", "\u180e", "\ufeff", "\x85", "\n", "\n\n"]
CONTROLS = ["\x00", "\x01", "\x07", "\x08", "\x1b", "\x7f", "\x80", "\x8f", "\x9f", "\u00ad", "\u200c", "\u200d", "\u200e", "\u202e", "\u2060", "\ufffd", "\ue000", "\U000f0000", "\ufff9", "\u0378"]
SPECIALS = ["[CLS]", "[MASK]", "<s>", "</s>", "<mask>", "<|endoftext|>", "<unk>", "[SEP] ", " <mask> ", "<0x0A>", "<|im_start|>", "[mask]", "ADDED", "added", "aADDEDb", "tok"]


def known_to_all(c):
    """Of Unicode 3.2: the tables of the package are of several versions, and what they think of newer characters differs among themselves."""
    return unicodedata.ucd_3_2_0.category(c) != "Cn"


def any_character(r):
    while True:
        c = chr(r.choice([r.randrange(0x20, 0x250), r.randrange(0x250, 0x3000), r.randrange(0x3000, 0xD800), r.randrange(0xE000, 0x10000),
                          r.randrange(0x10000, 0x1FA00)]))
        if known_to_all(c):
            return c


def odd_line(r):
    style = r.random()
    kinds = list(WORDS)
    main = r.choice(kinds + ["english"] * 6)
    out = []
    for _ in range(r.choice([0, 1, 2, 3, 5, 8, 13, 21])):
        roll = r.random()
        pool = ENGLISH if main == "english" and roll < 0.75 or roll < 0.25 else WORDS[main if main != "english" and roll < 0.8 else r.choice(kinds)]
        word = r.choice(pool)
        if r.random() < 0.08:
            word = word.upper() if r.random() < 0.5 else word.capitalize()
        if r.random() < 0.05:
            at = r.randrange(len(word) + 1)
            word = word[:at] + "".join(r.choice(MARKS) for _ in range(r.choice([1, 1, 2, 3]))) + word[at:]
        if r.random() < 0.03:
            at = r.randrange(len(word) + 1)
            word = word[:at] + r.choice(CONTROLS) + word[at:]
        if r.random() < 0.04:
            word = r.choice(SPECIALS)
        out.append(word)
        gap = r.random()
        if gap < 0.7 or style < 0.3:
            out.append("" if main in ("cjk", "thai") and gap < 0.35 else " ")
        elif gap < 0.85:
            out.append(r.choice(WORDS["symbols"]) + ("" if gap < 0.78 else " "))
        elif gap < 0.93:
            out.append(r.choice(BLANKS))
    line = "".join(out)
    if style > 0.97:   # any assigned code points at all
        line = "".join(any_character(r) for _ in range(r.randrange(1, 30)))
    if r.random() < 0.02:
        line *= r.randrange(2, 30)
    if r.random() < 0.01:
        line = r.choice("aé海 ") * r.randrange(50, 500)
    return line


def lines(count, seed=20261122):
    r = random.Random(seed)
    return ["", " ", "  ", "\n", "a", " a ", "é", "e\u0301", "\u0301", "<s>", " <s>", "\u200d", "\x00"] + [odd_line(r) for _ in range(count - 13)]


def plain(count, seed=7):
    """Lines to train and to measure speed on: words of one language, mostly."""
    r = random.Random(seed)
    for _ in range(count):
        kind = r.choice(["english"] * 8 + list(WORDS))
        pool = ENGLISH if kind == "english" else WORDS[kind]
        yield " ".join(r.choice(pool if r.random() < 0.9 else ENGLISH) for _ in range(r.randrange(5, 40))) + r.choice([".", "!", "?", "", " ."])
