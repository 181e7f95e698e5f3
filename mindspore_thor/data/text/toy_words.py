"""The words of the toy corpus."""

from __future__ import annotations

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun: English and German, singular and plural, and its gender, one of m, f, n."""

    english: str
    english_plural: str
    german: str
    german_plural: str
    gender: str


class Verb(NamedTuple):
    """A verb: English base, third person, participle; German finite forms, infinitive, participle.

    The German finite forms are without the prefix of a separable verb; the infinitive and the
    participle are whole.
    """

    english: str
    english_third: str
    english_participle: str
    german_third: str
    german_plural: str
    german_infinitive: str
    german_participle: str
    prefix: str = ""
    with_sein: bool = False


def _nouns(text: str) -> tuple[Noun, ...]:
    return tuple(Noun(*line.split()) for line in text.strip().splitlines())


def _verbs(text: str) -> tuple[Verb, ...]:
    verbs = []
    for line in text.strip().splitlines():
        words = line.split()
        third, plural, infinitive, participle = words[3:7]
        with_sein = words[-1] == "sein"
        prefix = words[7] if len(words) > 7 + with_sein else ""
        english = words[0], words[1], words[2]
        verbs.append(Verb(*english, third, plural, infinitive, participle, prefix, with_sein))
    return tuple(verbs)


BEINGS = _nouns("""
man men Mann Männer m
woman women Frau Frauen f
child children Kind Kinder n
teacher teachers Lehrer Lehrer m
doctor doctors Arzt Ärzte m
girl girls Mädchen Mädchen n
queen queens Königin Königinnen f
king kings König Könige m
friend friends Freund Freunde m
sister sisters Schwester Schwestern f
brother brothers Bruder Brüder m
aunt aunts Tante Tanten f
baker bakers Bäcker Bäcker m
dog dogs Hund Hunde m
cat cats Katze Katzen f
horse horses Pferd Pferde n
bird birds Vogel Vögel m
cow cows Kuh Kühe f
pig pigs Schwein Schweine n
mouse mice Maus Mäuse f
""")

THINGS = _nouns("""
apple apples Apfel Äpfel m
house houses Haus Häuser n
car cars Auto Autos n
book books Buch Bücher n
table tables Tisch Tische m
lamp lamps Lampe Lampen f
door doors Tür Türen f
key keys Schlüssel Schlüssel m
cup cups Tasse Tassen f
chair chairs Stuhl Stühle m
letter letters Brief Briefe m
picture pictures Bild Bilder n
flower flowers Blume Blumen f
boat boats Boot Boote n
coat coats Mantel Mäntel m
shirt shirts Hemd Hemden n
knife knives Messer Messer n
fork forks Gabel Gabeln f
spoon spoons Löffel Löffel m
bag bags Tasche Taschen f
""")

# Every part goes with every head: "cherry cake" is "Kirschkuchen".
COMPOUND_PARTS = (
    (
        (("apple", "Apfel"), ("cherry", "Kirsch"), ("lemon", "Zitronen"), ("nut", "Nuss")),
        _nouns("""
tree trees Baum Bäume m
cake cakes Kuchen Kuchen m
tart tarts Torte Torten f
bread breads Brot Brote n
"""),
    ),
    (
        (("garden", "Garten"), ("kitchen", "Küchen"), ("school", "Schul"), ("office", "Büro")),
        _nouns("""
chair chairs Stuhl Stühle m
lamp lamps Lampe Lampen f
book books Buch Bücher n
key keys Schlüssel Schlüssel m
"""),
    ),
)

TRANSITIVE = _verbs("""
see sees seen sieht sehen sehen gesehen
buy buys bought kauft kaufen kaufen gekauft
find finds found findet finden finden gefunden
paint paints painted malt malen malen gemalt
carry carries carried trägt tragen tragen getragen
need needs needed braucht brauchen brauchen gebraucht
love loves loved liebt lieben lieben geliebt
seek seeks sought sucht suchen suchen gesucht
clean cleans cleaned putzt putzen putzen geputzt
sell sells sold verkauft verkaufen verkaufen verkauft
forget forgets forgotten vergisst vergessen vergessen vergessen
bring brings brought bringt bringen bringen gebracht
take takes taken nimmt nehmen nehmen genommen
hold holds held hält halten halten gehalten
draw draws drawn zeichnet zeichnen zeichnen gezeichnet
hide hides hidden versteckt verstecken verstecken versteckt
wash washes washed wäscht waschen waschen gewaschen
admire admires admired bewundert bewundern bewundern bewundert
lift lifts lifted hebt heben hochheben hochgehoben hoch
fetch fetches fetched holt holen abholen abgeholt ab
""")

INTRANSITIVE = _verbs("""
sleep sleeps slept schläft schlafen schlafen geschlafen
laugh laughs laughed lacht lachen lachen gelacht
work works worked arbeitet arbeiten arbeiten gearbeitet
sing sings sung singt singen singen gesungen
dance dances danced tanzt tanzen tanzen getanzt
wait waits waited wartet warten warten gewartet
run runs run läuft laufen laufen gelaufen sein
swim swims swum schwimmt schwimmen schwimmen geschwommen sein
arrive arrives arrived kommt kommen ankommen angekommen an sein
stay stays stayed bleibt bleiben bleiben geblieben sein
""")

ADJECTIVES = (
    ("old", "alt"),
    ("young", "jung"),
    ("small", "klein"),
    ("big", "groß"),
    ("red", "rot"),
    ("green", "grün"),
    ("blue", "blau"),
    ("beautiful", "schön"),
    ("new", "neu"),
    ("cold", "kalt"),
    ("warm", "warm"),
    ("heavy", "schwer"),
    ("rich", "reich"),
    ("poor", "arm"),
    ("white", "weiß"),
    ("black", "schwarz"),
)

PLACES = (
    ("in the garden", "im Garten"),
    ("in the kitchen", "in der Küche"),
    ("in the city", "in der Stadt"),
    ("on the bridge", "auf der Brücke"),
    ("near the river", "neben dem Fluss"),
    ("in the forest", "im Wald"),
    ("behind the house", "hinter dem Haus"),
    ("at home", "zu Hause"),
    ("by the sea", "am Meer"),
)

TIMES = (
    ("today", "heute"),
    ("now", "jetzt"),
    ("often", "oft"),
    ("sometimes", "manchmal"),
    ("every day", "jeden Tag"),
    ("in the evening", "am Abend"),
    ("in the morning", "am Morgen"),
)

# (English, third person, German third person, German plural); no modal is negated, for "must not"
# is another verb in German.
MODALS = (
    ("can", "kann", "können"),
    ("must", "muss", "müssen"),
    ("should", "soll", "sollen"),
    ("may", "darf", "dürfen"),
)

# What a subordinate clause hangs on; in German its verb goes to the end.
OPENINGS = (
    ("I know that", "ich weiß, dass"),
    ("we hope that", "wir hoffen, dass"),
    ("she says that", "sie sagt, dass"),
    ("he thinks that", "er denkt, dass"),
    ("they believe that", "sie glauben, dass"),
    ("you see that", "du siehst, dass"),
    ("we are happy because", "wir sind froh, weil"),
    ("he laughs because", "er lacht, weil"),
)

UNITS = (
    ("two", "zwei"),
    ("three", "drei"),
    ("four", "vier"),
    ("five", "fünf"),
    ("six", "sechs"),
    ("seven", "sieben"),
    ("eight", "acht"),
    ("nine", "neun"),
)
TENS = (
    ("twenty", "zwanzig"),
    ("thirty", "dreißig"),
    ("forty", "vierzig"),
    ("fifty", "fünfzig"),
    ("sixty", "sechzig"),
)
