"""A private scalar in every form in which a program might leave it, and the search for any of them.

A part is enough: the needles are pieces of 8 bytes or more, so placed that any 16 bytes of the scalar in a
row hold one of them whole, and that each is a 64-bit limb. 64 bits do not occur by chance.
"""

import base64
import collections

# The order of P-256.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
PIECE = 8
PAGE = 4096

# The key of RFC 7515 appendix A.3, which is public: the one of most files in tests/fixtures/keys.
CANARY = int("8e9b109e719098bf980487df1f5d77e9cb29606ebed2263b5f57c213df84f4b2", 16)
CANARY_KID = "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"


def windows(text, length, step=1):
    return [text[at:at + length] for at in range(0, len(text) - length + 1, step)]


def reversed_words(data, size):
    return b"".join(data[at:at + size][::-1] for at in range(0, len(data), size))


def signed_digits(value):
    """As double-and-add with a table of sixteen has them: 64 digits from -8 to 8, lowest first."""
    digits = []
    for _ in range(64):
        digit = value & 15
        value >>= 4
        if digit >= 8:
            digit -= 16
            value += 1
        digits.append(digit & 0xFF)
    return bytes(digits)


def raw_forms(value):
    """Name and needles of the forms that are not for people."""
    big = value.to_bytes(32, "big")
    # Of 16 bytes in a row, 8 are such a piece.
    yield "big-endian", windows(big, PIECE, PIECE)
    # The limbs of 32 and 64 bits that a library keeps on a little-endian machine, lowest first.
    yield "little-endian", windows(big[::-1], PIECE, PIECE)
    # Words that a hash has loaded, the scalar at any offset in them.
    yield "32-bit words", [reversed_words(piece, 4) for piece in windows(big, PIECE)]
    yield "big-endian limbs, lowest first", [piece[4:] + piece[:4] for piece in windows(big, PIECE, PIECE)]
    digits = [value >> at & 15 for at in range(0, 256, 4)]
    yield "nibbles", windows(bytes(digits), 16, 8) + windows(bytes(digits[::-1]), 16, 8)
    yield "signed digits", windows(signed_digits(value), 16, 8)


def text_forms(value):
    """Name and needles of the forms of texts."""
    big = value.to_bytes(32, "big")
    for order, data in (("", big), ("reversed ", big[::-1])):
        yield order + "hex", windows(data.hex(), 2 * PIECE, PIECE)
        yield order + "HEX", windows(data.hex().upper(), 2 * PIECE, PIECE)
        for name, separator, shape in (("hex list", ", ", "{:02x}"), ("0x list", ", ", "0x{:02x}"),
                                       ("0x LIST", ", ", "0x{:02X}"), ("colons", ":", "{:02x}"),
                                       ("COLONS", ":", "{:02X}"), ("spaces", " ", "{:02x}"),
                                       ("decimal list", ", ", "{}"), ("decimal array", ",", "{}")):
            pieces = windows([shape.format(byte) for byte in data], PIECE, PIECE)
            yield order + name, [separator.join(piece) for piece in pieces]
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            needles = []
            for shift in range(3):
                # The first and the last characters hold bits of what is beside the scalar.
                text = encode(bytes(shift) + data + bytes(3)).decode()
                needles += windows(text[(0, 2, 3)[shift]:(8 * (shift + 32)) // 6], 12, 4)
            yield order + name, needles
    yield "decimal", windows(str(value), 18, 6)
    yield "escaped", ["".join(f"\\x{byte:02x}" if not 32 <= byte < 127 else chr(byte) for byte in piece)
                      for piece in windows(big, PIECE, PIECE)]


class Secret:
    def __init__(self, value):
        self.forms = collections.defaultdict(set)
        montgomery = (value << 256) % ORDER
        for prefix, number in (("", value), ("Montgomery, ", montgomery), ("negated, ", ORDER - value)):
            for name, needles in raw_forms(number):
                self.forms[prefix + name].update(needles)
        for name, needles in text_forms(value):
            self.forms[name].update(needle.encode() for needle in needles)

    def find(self, data):
        """Where which form is: a list of (name, offset of its first needle)."""
        hits = []
        for name, needles in self.forms.items():
            places = [place for needle in needles if (place := data.find(needle)) >= 0]
            if places:
                hits.append((name, min(places)))
        return hits

    def find_in_memory(self, data):
        """The same for a core, most of which is pages of zeros."""
        pages = [data[at:at + PAGE] for at in range(0, len(data), PAGE)]
        return self.find(b"".join(page for page in pages if page.strip(b"\0")))

    def find_in_text(self, data):
        """The same for a text, in which line breaks and blanks may stand anywhere."""
        return self.find(data) or self.find(data.translate(None, b" \t\r\n"))
