"""The words of the laboratory's language. Lists of different kinds have no word in common, so that a word always shows its kind."""

NAMES = """Abel Ada Agnes Alma Amir Anton Arlo Astrid Bela Bruno Carla Cedric Clara Conrad Cora Dalia Dario Dora Edgar Edith Elena Elias Emil Erna Esme
Farid Felix Fiona Flora Frida Gerda Gideon Greta Gustav Hanna Hector Hilda Hugo Ida Igor Ines Iris Ivan Jana Jasper Jonas Judith Kamil Karin Klara Lars
Lea Leon Lina Lotte Luis Mabel Magda Marco Marta Milo Mira Nadia Nell Nils Nora Olaf Olga Oscar Otto Paula Pedro Petra Quentin Ralf Rosa Rufus Sara Selma
Simon Sonja Stella Sven Tara Theo Thora Tilda Ulla Ursula Vera Viktor Wanda Wilma Xenia Yara Yusuf Zelda""".split()

# Each category has sixteen things.
CATEGORIES = {name: words.split() for name, words in [line.split(": ") for line in """\
animals: fox wolf bear goat mule otter badger rabbit lynx camel zebra donkey beaver monkey tiger hedgehog
birds: owl crow heron goose falcon parrot robin raven stork swan sparrow pigeon eagle magpie duck finch
tools: hammer saw drill wrench chisel shovel rake axe pliers file anvil ladder broom needle scissors crowbar
fruits: apple pear plum cherry mango lemon melon grape peach fig banana apricot quince lime date papaya
clothes: coat scarf glove boot shirt belt hat sock vest robe cape skirt apron sandal jacket mitten
instruments: drum flute violin harp trumpet piano guitar cello bell horn lute banjo organ whistle fiddle tuba
vehicles: cart boat wagon ship sled train bicycle raft canoe ferry truck tractor barge van balloon carriage
furniture: chair table bed shelf lamp mirror chest desk stool bench cradle cupboard carpet curtain sofa clock""".splitlines()]}
THINGS = [word for words in CATEGORIES.values() for word in words]

VALUES = """amber azure beige black blue bronze brown copper coral cream crimson cyan emerald golden gray green indigo ivory jade lilac maroon navy ochre olive
orange pink purple red rusty scarlet silver tan teal turquoise violet white yellow wooden stone glass iron leather paper woolen cotton silk marble plastic
striped dotted plain shiny dull broken heavy tiny huge round square hollow bent smooth rough wet""".split()

PLACES = """Aldmoor Barrowby Belford Birkdale Brackwell Calder Carrick Colnbrook Corwen Dalby Delm Denholm Dunmere Eastry Elmstead Fallow Farnley Fenwick
Garsdale Glenmoor Greystone Halden Harrow Hartwell Hexley Holm Inverlea Ironbridge Kelby Kenmare Kirkwall Langport Larkhill Lindale Lowick Malden Marwell
Midhurst Moorend Narborough Newlyn Northam Oakley Orford Pendle Penrith Quarley Ravensby Redmire Rothley Saltash Selby Skelton Stonewick Tarland Thornby
Torvik Ulverton Upwell Varley Walden Westry Whitby Yarrow""".split()

ROLES = """baker miller smith teacher doctor tailor mayor judge painter potter weaver sailor hunter farmer gardener cook
barber butcher banker guard priest porter printer singer""".split()

# Labels are invented words without a meaning.
LABELS = "dax wug blick toma zup fep gorp lorn mib nuz pell quib rasp snib tove vim wex yib zorf keld jolt hurn crid bofa".split()

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z".split()

# Filler sentences, which mention nothing from the lists above.
_PLACES_OF_NATURE = "river hill forest valley meadow lake road field coast garden".split()
FILLERS = [f"{a} {b}" for a in [
    f"The {w} was" for w in ["wind", "rain", "snow", "fog", "sun", "moon", "night", "morning", "evening", "water", "sky", "air"]] for b in [
    "calm.", "cold that day.", "slow to come.", "kind to everyone.", "hardly there.", "quiet again.", "late that year.", "long remembered."]] + [
    f"{a} the {b}{c}" for a in ["A path led to", "Someone walked along", "Nobody looked at", "Clouds hung over", "The children ran to", "It was far to"]
    for b in _PLACES_OF_NATURE for c in [".", " again.", " before noon.", " as always."]]
