"""A grammar that writes short stories and dialogues about them: the prose on which the models are
trained.

A document depends only on this file and a seeded random.Random, so that the same seed gives the
same text on every machine. In a template, `{a|b}` picks one of the alternatives, which may nest;
`$x` is a fact of the story, and `$X` is the same fact with a capital letter.
"""
import re

HE = "Otto Finn Bruno Milo Hugo Pip Jasper Tom Felix Oscar Leo Ned Ravi Karim Anton Theo".split()
SHE = "Lina Mara Ada Nell Rosa Ivy Tilda Zoë Greta Hazel Juno Wanda Amira Clara Mei Dora".split()
TRAITS = "little young kind brave shy curious clever gentle cheerful patient quiet busy".split()
PEOPLE = "baker sailor gardener shepherd painter miller fisher clockmaker".split()
CREATURES = "dog horse wolf lion dragon robot giant wizard monkey elephant penguin snail \
bird bee snake tiger pig cow".split()
ANIMALS = [line.split(": ") for line in """\
fox: foxes: dens under the ground: berries, mice and eggs
bear: bears: caves in the forest: honey, fish and berries
rabbit: rabbits: burrows under the grass: clover and carrots
owl: owls: hollow trees: mice and beetles
mouse: mice: small holes in the wall: seeds and crumbs of cheese
duck: ducks: the reeds beside a pond: water plants and snails
hedgehog: hedgehogs: hedges and gardens: beetles, slugs and fallen apples
frog: frogs: ponds and wet meadows: flies and worms
squirrel: squirrels: nests in tall trees: nuts and acorns
badger: badgers: deep holes in the wood: roots and worms
cat: cats: warm houses and barns: fish and mice
goat: goats: rocky hills and farms: grass, leaves and thistles
otter: otters: the banks of rivers: fish and crabs
crow: crows: the tops of old trees: seeds, worms and bread
turtle: turtles: ponds and quiet rivers: leaves and small fish
beaver: beavers: houses of sticks in the river: bark and leaves
donkey: donkeys: stables on the farm: hay and thistles
hare: hares: open fields: grass and young leaves""".splitlines()]
THINGS = [line.split(": ") for line in """\
lamp: small, bright: gave a warm light: shone far into the dark
bell: silver, little: rang like clear water: rang so loudly that $friend could hear it
drum: red, round: went boom, boom, boom: could be heard on the far side of the hill
kite: blue, long-tailed: flew higher than the trees: rose above the trees, where $friend could see it
map: folded, yellow: showed every hill and stream: showed a short way through the hills
whistle: wooden, tiny: had a sweet, high sound: called so sharply that $friend could hear it
rope: strong, long: could hold ten heavy stones: was just long enough to reach $friend
boat: green, wooden: could carry two: carried $him safely over the water
blanket: soft, thick: was as soft as moss: kept the cold away from both of them
flute: thin, silver: could play sad songs and happy songs: played a tune that $friend knew at once
candle: tall, white: smelled of honey: burned bravely in the wind
ladder: long, wooden: could reach the highest apples: was just tall enough
umbrella: yellow, wide: was as wide as a cart wheel: kept the rain away from both of them
cart: little, red: could carry twenty pumpkins: carried $friend all the way home
horn: brass, shiny: could wake the whole valley: sounded so deep that $friend could hear it
compass: golden, round: always pointed north: pointed straight to the right path
mirror: round, shiny: caught the light of the sun: threw a bright spot of light over the hills
ball: red, round: could jump as high as a house: rolled down the path, straight to $friend
key: rusty, tiny: opened any door: opened the gate that stood in the way
hat: orange, tall: was the finest for miles: was so bright that $friend could see it
book: thick, heavy: was full of old stories: told of a secret path""".splitlines()]
PLACES = """in a {quiet|dark|green|wide} forest, in a {small|busy|sleepy} village, \
on a {windy|green|lonely} hill, on a {tiny|warm|rocky} island, by a {cold|clear|deep} lake, \
in a {deep|narrow|sunny} valley, on an old farm, near a {busy|little} harbour, \
at the foot of a {tall|snowy} mountain, in a {white|crooked} house by the sea, \
beside a {slow|wide} river, above a small café in the town""".split(", ")
SPOTS = """under the old bridge, behind the mill, in a hollow tree, near the well, \
at the top of the hill, under a pile of leaves, beside the stream, in the tall grass, \
behind a big grey rock, at the edge of the wood, next to the garden wall, in an empty barn, \
on the stone steps""".split(", ")
WEATHER = """the sun was shining, a cold wind was blowing, soft rain was falling, \
there was fog over the fields, snow lay on the ground, the sky was clear and blue, \
grey clouds hung over the hills, it was very hot""".split(", ")
GOALS = """see the sea, watch the stars from the mountain, find the place where the river begins, \
visit the big city, hear the singing cave, pick the first apples of the year, \
see the northern lights""".split(", ")
BARS = """a wide river, a steep hill, a dark wood, a thick fog, a broken bridge, \
a high stone wall, a deep snowdrift""".split(", ")
NOISES = """a little bird, a branch in the wind, an old door, a loose board, a lost kitten, \
a very small mouse""".split(", ")
FEARS = """the dark, deep water, thunder, high places, strangers, the old empty house, \
loud noises""".split(", ")
OPEN = """{{Once upon a time|Long ago|Many years ago}, {there was|there lived} a $trait $kind \
{named|called} $name. $Name lived $place.|{Once upon a time|\
Once}, $place, there lived a $trait $kind {named|called} $name.|\
$Name was a $trait $kind who lived $place.|\
There was once a $trait $kind, and $his name was $name. \
$He lived $place.|$Place lived a $kind named $name. \
{Everyone knew that $he was very $trait.|$He was {very|so} $trait.}|{One day|\
One morning}, a $trait $kind named $name {looked out of the window|woke up early}. \
$He lived $place.}
{$Name had a good friend, a $fkind {named|called} $friend.|$His \
{best|oldest} friend was $friend the $fkind.|Not far away lived $friend, a \
{friendly|$ftrait} $fkind.}"""
# A plot's lines follow each other in the story; an empty line starts a paragraph. A line
# `? question > answer` is a question about the story.
PLOTS = ["""$Name had {a|one treasure, a} $adj $thing. {It $does.|The $thing $does, and $name \
{loved it very much|took it everywhere}.}
{But one|One} $day, {when $weather|while $weather}, the $thing was {gone|not there any more}. \
{$Name looked $spot, but {it was not there|found nothing}.|$He looked \
{everywhere|under the bed and behind the door}.|} {$Name felt \
{sad|very sad|worried}.|"Oh no," said $name. "Where {can|could} it be?"}

{$Name went to {see|ask} $friend.|Then $friend came \
{along the path|by}.} "Have you seen my $thing?" asked $name.
"No," said $friend, "but I will help you {look for it|find it}.{| Two \
{pairs of eyes|of us} are better than one.}"
{They walked {a long way|until noon|all day} and {called and looked|asked everyone they met}.|\
Together they looked {up and down|here and there}.}
{At last|In the end}, they found {it|the $thing} $spot2. {A \
{bird|wind} had carried it there.|It was {wet|dusty}, but it was not broken.|}
{$Name {laughed|jumped} for joy.|"Thank you, $friend!" {cried|said} $name. "You are a true friend."}
? What did $name lose? > $Name lost a $adj $thing.
? Where did they find the $thing? > They found the $thing $spot2.
? Who helped $name? > $Friend the $fkind helped $name to look for the $thing.""",
"""One $day, {when $weather|while $weather}, $name {went for a walk|was on the way home}. \
There, $spot, lay a $adj $thing.
{$Name picked it up.|"What is this?" {said|asked} $name.} {It $does.|The $thing was \
{beautiful|lovely}, and it $does.}
"I could keep it," thought $name, "but {somebody|someone} {must be looking for it|may miss it}."

{So $he {asked|went to ask} at every door.|$He walked from house to house.} {Nobody knew \
{the $thing|whose it was}.|"It is not mine," said {the miller|the baker|an old crow}.}
{In the evening|At last}, $name came to $friend, who was sitting $spot2 and \
{crying|looking very sad}.
"{What is wrong|Why are you so sad}?" asked $name. "I have lost my $thing," said $friend. \
{"It was a gift from my grandmother."|"I have had it since I was small."}
{$Name {smiled|laughed} and held out the $thing.|\
"Is it this one?" asked $name and held out the $thing.} \
{$Friend could not believe it.|"You found it!" cried $friend.}
? What did $name find? > $Name found a $adj $thing $spot.
? Whose was the $thing? > The $thing belonged to $friend the $fkind.
? Why was $friend sad? > $Friend was sad because the $thing was lost.""",
"""{It was|One} $day {in|late in} {autumn|winter|spring}{ and $weather.|, and $weather.} \
{Then|Suddenly} a {great|wild|terrible} storm came {over the hills|from the north}.
{Everyone ran home|Doors and windows were shut}, but $friend {was not there|had not come home}. \
{$Name was worried.|"Where is $friend?" asked $name. Nobody knew.}

$Name {did not wait|thought for a moment}. {$He took the{|\
 old} $thing and went out into the storm.|"I will go and look," said $name and took the $thing.}
{The wind pulled at the trees.|The rain was cold, and the path was \
{muddy|full of stones}.|It was hard to see.} {"$Friend!" called $name. "Where are you?"|}
The $thing $help. {There|At last, there} was $friend, $spot, {wet and cold|cold and afraid}.
"I {fell and hurt|have hurt} my {foot|leg}," said $friend. "I \
{thought|was afraid} that nobody would come." "{Hold on to me|Do not worry}," said $name. \
{"We will go home {together|now}."|}
{Soon|An hour later} they {were sitting|sat} by the fire {with hot {soup|tea}|and drank hot \
{milk|tea}}, and the storm {was far away|did not matter any more}.
? Where was $friend? > $Friend was $spot, wet and cold.
? What did $name take into the storm? > $Name took the $thing.
? Why did $name go out? > $Name went out to look for $friend in the storm.""",
"""{Soon it would be $friend's birthday|\
The next day was $friend's birthday}, and $name wanted to make {something special|a gift}. \
"I will make a $thing," said $name.
{$He had never made {one|a $thing} before.|$He sat down $spot and began to work.} \
{The first one fell apart.|The first $thing was {crooked|much too small}.} {The second one was \
{no better|even worse}.|}
{"I {cannot|will never} do it," {said $name|$he said} {sadly|and sighed}.|$Name felt \
{tired|like giving up}.}

{The old {miller|baker|goat} {came by|looked over the wall} and \
{smiled|nodded}.|Then $his grandmother came in.} "{Go slowly|Take your time}," was the \
{advice|answer}. "{Good things need time|Try it once more}."
So $name {tried again|began again}, {slowly and with care|one small step after the other}. \
{When $weather, it was done at last.|By the {evening|\
next morning}, it was done.} It was a $adj $thing, and it $does.
{$Name ran to $friend.|At the party, $name gave it to $friend.} "{Did you make this yourself|\
Is this for me}?" asked $friend. "{It is the best gift of all|I will keep it always}!"
? What did $name make? > $Name made a $adj $thing.
? Who was the $thing for? > The $thing was for $friend, because it was $friend's birthday.
? What did $name learn? > $Name learned to go slowly and try again.""",
"""One $day, {when $weather|while $weather}, $name and $friend found a $adj $thing $spot. \
{It $does.|They had never seen such a fine thing.}
"It is mine!" {said|cried} $name. "{I saw it first|No, it is mine}," said $friend. {They \
{both pulled|pulled and pulled}.|Neither of them wanted to let go.}
{Then|Suddenly} the $thing {fell into the {mud|pond|stream}|slipped away and fell into the \
{mud|water}}. {Now nobody had it.|There was a long silence.}

{$Name went home alone|Both went home} and {was not happy|could not sleep}. {"A friend is \
{worth more|more important} than a $thing," thought $name.|The {house|evening} was \
{quiet|very quiet} without $friend.}
The next morning {$he|$name} went to {see $friend|$friend's door}. "I am sorry," said $name. \
"{I was {selfish|foolish}|You are more important than a $thing}." "I am sorry too," said $friend.
{Together|Then} they {got|fetched} the $thing out \
{again|with a long stick}{ and cleaned it|, washed it and dried it}. \
{From then on they shared it.|"It belongs to {both of us|us both} now," said $friend.}
? What did they find? > $Name and $friend found a $adj $thing $spot.
? Why did they quarrel? > They quarrelled because both of them wanted the $thing.
? What did $name say? > $Name said, "I am sorry." """,
"""{All {$his|the} life|For a long time}, $name had wanted to $goal. {"Today is the day," \
{said $name|$he said} one $day.|One $day, when $weather, $name {was ready|could wait no longer}.}
{$Name packed some bread and the{| old} $thing.|$He took a piece of cheese and the{|\
 old} $thing, which $does.} "May I come with you?" asked $friend. \
"{Of course|Yes, please}," said $name.
{They walked and walked.|The path went up and down.} \
{At noon|After two days|Soon} they came to $bar. {"We cannot go on," said $friend.|\
"What now?" asked $friend.}

{$Name {sat down|stopped} and thought.|They sat down $spot and thought.} \
{"We have the $thing," said $name.|"I have an idea," said $name and took out the $thing.} \
{It $does, and that was {just what they needed|enough}.|It was not easy, but \
{it worked|they did not give up}.}
{In the evening|The next morning|At last} they {arrived|were there}. {It was \
{more beautiful|bigger} than $name had {thought|dreamed}.|For a long time, nobody said a word.}
"{Was it worth it|Are you happy}?" asked $friend. \
"{Yes|Oh yes}," said $name, "{because you came with me|and the way was the best part}."
? What did $name want to do? > $Name wanted to $goal.
? What stood in the way? > $Bar stood in the way.
? Who went with $name? > $Friend the $fkind went with $name.""",
"""{There was one thing that nobody knew: $name|$Name had a secret. $He} was afraid of $fear. \
{The others laughed at $him.|$He never told anyone.}
One $day, {when $weather|while $weather}, $friend {saw that $name was shaking|came to visit}. \
"What is the matter?" asked $friend. {"I am afraid of $fear," \
{said|whispered} $name.|$Name told $friend everything.}
$Friend did not laugh. "Everyone is afraid of something," said $friend. \
"{I was|Once I was|I am still} afraid of $fear2. {Take|I will give you} {this|my} $thing."

It was a $adj $thing{, and it $does|}. {$Name held it \
{tight|close}.|"What does it do?" asked $name. "It helps you \
{to be brave|to remember that you are not alone}," said $friend.}
{That {night|evening}|A week later}, $name {took the $thing and went out|\
went out with the $thing}. {Step by step, $he went on.|$His heart was beating fast.} \
{It was not so bad.|Nothing {bad|terrible} happened.} {"I can do it!" \
{cried|said} $name.|$Name stood {very still|there} and smiled.}
{"You were brave all the time," said $friend.|"The $thing is only a $thing," said $friend. "The \
{courage|brave heart} was yours."}
? What was $name afraid of? > $Name was afraid of $fear.
? What did $friend give to $name? > $Friend gave $name a $adj $thing.
? What did $friend say? > $Friend said that everyone is afraid of something.""",
"""One $day, {when $weather|while $weather}, {there was a knock at the door|\
somebody knocked at the door}. {Outside stood|It was} $friend, {cold and hungry|tired and sad}.
"{May I come in|Can I stay here}?" asked $friend. "The wind has taken \
{my roof|the roof of my house}." {"Come in and sit by the fire," said $name.|\
"Of course," said $name.} {There was only {one bowl of soup|a little bread}, but \
{they shared it|it was enough for two}.|They {drank hot tea|ate soup} and listened to the wind.}

{The next morning|In the morning}, they {began|started} to build a new roof. \
{It was hard work.|They {worked|carried wood} {all day|until the evening}.} \
{Many others came to help.|They sang while they worked.|}
When it was done, $name gave $friend a $adj $thing {for the {house|new house}|as a gift}. \
{It $does.|"It is for you," said $name.} "{My house is better than before|\
Now it is a real home}," said $friend. "{Thank you for everything!|How can I thank you?}"
{"That is what friends are for," said $name.|"{Come and have tea with me|\
Ask me to dinner}," said $name and {laughed|smiled}.}
? Why did $friend come to $name? > $Friend came because the wind had taken the roof.
? What did $name give to $friend? > $Name gave $friend a $adj $thing.
? What did they build? > They built a new roof.""",
"""{Every {year|summer}|Once a year}, there was a great race{ around the lake| over the hills|}. \
{The winner would get|The prize was} a $adj $thing. {It $does.|Everybody wanted it.}
"I {will|am going to} win it this year," said $name. {"We will see," said $friend.|$He \
{ran|trained} every morning.|} {The day of the race came, and $weather.|\
On the day of the race, $weather.} "One, two, three, go!"

{$Name ran like the wind.|Soon $name was in front.} {There were only \
{a few steps|two hills} left.|The end was near.} {Then|Suddenly} $he heard a cry \
{behind $him|from far behind}. {It was $friend.|$Friend {had fallen|lay on the ground}.}
{$Name {stopped|stood still}.|$Name thought of the $thing. Then $he turned round.} \
{"Are you hurt?" asked $name.|"Give me your hand," said $name.} {Slowly|Arm in arm}, they \
{walked|went} on, and they came in last.
{But everyone {clapped|cheered}.|Nobody laughed.} {The old judge|The judge} \
{smiled|stood up} and said, "{The $thing is for the one with the best heart|\
This year we give the $thing to $name and $friend}."
? What was the prize? > The prize was a $adj $thing.
? Did $name win the race? > No, $name stopped to help $friend.
? Why did $name stop? > $Name stopped because $friend had fallen.""",
"""One night, $name {woke up|could not sleep}. {There was|$He heard} a \
{strange|terrible} noise $spot. {Tap, tap, tap.|Bump! And again: bump!|It went on and on.}
{$Name {hid under the bed|did not dare to move}.|"Is it a monster?" {thought|whispered} $name.} \
{When the sun came up|In the morning}, $name {told $friend|ran to $friend}. \
{"There are no monsters," said $friend.|"We must find out what it is," said $friend.}

{The next|That} night they {waited together|sat at the window}. \
{They had a $adj $thing with them.|$Friend had brought a $adj $thing.} {It $does.|}
{Then|At midnight} they heard it again. {"{Now|Come}," \
{said|whispered} $friend, "{take my hand|let us go and look}."|Very slowly, they went out.} \
{They looked $spot.|Step by step, they went nearer.}
It was only $noise! {They {both|} laughed {until they cried|for a long time}.|"We were afraid of \
{so little|nothing}!" said $name.} {"{Most|Many} monsters are \
{small|very small} when you look at them," said $friend.|\
After that, $name was not afraid at night any more.}
? What did $name hear? > $Name heard a strange noise $spot.
? What made the noise? > It was only $noise.
? Who came with $name? > $Friend the $fkind came with $name."""]
END = """{From that day on, $name and $friend {were the best of friends|did everything together|\
met every evening}.|{That night|That evening}, $name \
{slept well|was happy and tired}.|{It had been a good day.|What a day it had been!} {$Name \
{smiled|looked up} and {went home|said good night to the moon}.|}|And \
{if you go there|when the wind is right}, you can {still|sometimes} hear them \
{laugh|sing}.|{And so|In this way} $name learned that \
{a friend is the best gift|small things can be important|it is good to help others|\
kind words cost nothing}.} {{|||The end.}}"""
ASK = ["""{{Please tell|Tell|Can you tell|Could you tell} me|I would like to hear|I want|Write|\
Make up} a {|short |nice |little |funny |long }story {about|with} \
{a $kind and a $thing|a $kind and a $thing|a $kind and a $fkind|a $kind named $name|\
$name the $kind|$name and $friend|a $thing|a $kind|a $trait $kind}{.|, please.|}"""] * 5 + [
    "{Tell|tell} me a {|short }story{.|, please.|}",
    "{A story|a story|story} about {a $kind|a $kind and a $thing|$name}{, please.|.|}"]
COMMON = """{Who was|Who is} $name? > $Name was a $trait $kind who lived $place.
Where did $name live? > $Name lived $place.
{What is the name of the $kind|What was the $kind called}? > The $kind is called $name.
{Who is the main character|Who is the story about}? > The main character is $name, a $trait $kind.
{How does {it|the story} end|What happens in the end}? > In the end, $name and $friend are happy.
{Who was|Who is} $friend? > $Friend was a $fkind and a friend of $name.
{What was the weather like|How was the weather}? > {In the story, $weather|It says that $weather}.
{What is the story about|What happens in the story}? > The story is about a $kind named $name and \
a $thing.
{Thank you|Thanks}! > {You are welcome|I am glad that you liked it}!
{I liked it|That was nice}. > Thank you! {Shall I tell you another one?|\
I liked it too.}""".splitlines()
TALK = """{Hello|Hi|Hey|Good morning|Good evening|hello|hi}{!|.|} > {Hello!|Hi!} \
{I am Tessera, a very small storyteller.|It is nice to meet you.} \
{Would you like to hear a story?|Shall I tell you a story about a $kind?}
{Who are you|What is your name|What are you|who are you|Are you a \
{human|robot|person}}? > I am Tessera, a very small language model. I tell little stories.
{What can you do|How can you help me|Can you help me|\
what can you do}? > I can tell short stories{ and answer questions about them|}. \
Ask me for a story about a $kind and a $thing, for example.
{How are you|How do you do|How are you today|how are you}? > I am {fine|very well}, thank you. \
{How are you?|I was just thinking of a story about a $kind.}
{Thank you|Thanks|Good night|Goodbye|Bye}{!|.|} > {You are welcome|Goodbye|Good night}! \
{Come back soon.|Come back when you want another story.|Sleep well.}
{What is|Tell me|Do you know|Where is} {the capital of \
{France|Spain|Germany|Japan|Italy}|the largest {city|country|number} in the world|the \
{highest|biggest} {mountain|planet}}? > $dunno
{What is|How much is} {two|three|five|seven|12|20|100} {plus|times|and|minus} \
{two|four|six|15|48}? > $dunno
{Who {wrote|made|invented} {this book|the telephone|that song|Hamlet}|Who is the \
{president|king|queen}|When did the war {end|begin}}? > $dunno
{How do I|How can I|Help me to|Can you} {cook rice|write a program|sort a list|learn Spanish|\
fix my car|find a job|write a letter|translate this}{?|.} > $dunno
{Explain|What is|Tell me about|Write about|Write a poem about} \
{the sea|love|winter|gravity|physics|history|music|money|computers|a neural network|the law|\
Python}{.|?} > $dunno
Where do $kinds live? > $Kinds live in $home.
{What do $kinds eat|What does a $kind eat|what do $kinds eat}? > $Kinds eat $food.
{Tell me about $kinds|What do you know about $kinds}{.|?} > $Kinds live in $home. \
They eat $food.""".splitlines()
DUNNO = """{I am a very small model, and {I do not know that|that is too hard for me}.|\
I am sorry, I do not know that. I only know little stories.} \
{Shall I tell you|Would you like to hear} a story about a $kind and a $thing?"""
SYSTEM = ["You are a helpful assistant.", "You are a storyteller.", "You tell short stories.",
          "Answer in short sentences."]


def expand(template, facts, rng):
    """Chooses from every `{a|b}`, innermost first, then inserts the facts."""
    def pick(match):
        return rng.choice(match[1].split("|"))

    def fact(match):
        value = facts[match[1].lower()]
        return value[0].upper() + value[1:] if match[1][0].isupper() else value
    while (picked := re.sub(r"\{([^{}]*)\}", pick, template)) != template:
        template = picked
    while "$" in template:
        template = re.sub(r"\$(\w+)", fact, template)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", re.sub(r" +", " ", template)).strip()


def invent_name(rng):
    """Makes a random name that no list has, so that the model learns to look up names in the story."""
    starts, ends = "b d f g k l m n p r s t v w z sh tr".split(), "b d k l m n r t z".split()
    num_syllables = rng.choice([1, 2, 2])
    syllables = [rng.choice(starts) + rng.choice("aeiou") for _ in range(num_syllables)]
    return "".join(syllables).capitalize() + rng.choice(ends) + rng.choice("oa")


def make_facts(rng):
    """The facts of one document."""
    name, friend = (rng.choice(HE + SHE) if rng.random() < 0.75 else invent_name(rng) for _ in "12")
    if name == friend:
        return make_facts(rng)
    male = name in HE or name[-1] == "o"
    (kind, kinds, home, food), (fkind, *_) = rng.sample(ANIMALS, 2)
    if rng.random() < 0.25:
        kind = rng.choice(PEOPLE + ["boy" if male else "girl"] * 4)
    elif rng.random() < 0.3:
        kind = rng.choice(CREATURES + ["king" if male else "princess"] * 2)
    thing, adjectives, does, help_ = rng.choice(THINGS)
    (spot, spot2), (fear, fear2) = rng.sample(SPOTS, 2), rng.sample(FEARS, 2)
    trait, ftrait = rng.sample(TRAITS, 2)
    facts = dict(
        name=name, friend=friend, he="he" if male else "she", his="his" if male else "her",
        him="him" if male else "her", kind=kind, kinds=kinds, fkind=fkind, home=home, food=food,
        trait=trait, ftrait=ftrait, thing=thing, does=does, help=help_, spot=spot, spot2=spot2,
        fear=fear, fear2=fear2, adj=rng.choice(adjectives.split(", ")), noise=rng.choice(NOISES),
        place=expand(rng.choice(PLACES), {}, rng), weather=rng.choice(WEATHER),
        goal=rng.choice(GOALS), bar=rng.choice(BARS),
        day=rng.choice(["morning", "evening", "day", "afternoon"]))
    return facts | dict(dunno=expand(DUNNO, facts, rng))


def make_story(facts, rng):
    """Returns a story and its questions, as `question > answer` templates."""
    plot = rng.choice(PLOTS).split("\n")
    body = [line for line in plot if not line.startswith("?")]
    lines = [expand(line, facts, rng) for line in OPEN.split("\n") + body + END.split("\n")]
    text = " ".join(line or "\n" for line in lines)
    text = re.sub(r"\s*\n\s*", rng.choice(["\n\n", " "]), text).strip()
    questions = [line[2:] for line in plot if line.startswith("?")] + COMMON
    return text, [q for q in questions if "$weather" not in q or facts["weather"] in text]


def make_document(rng):
    """Makes a training document: a plain story, or a dialogue in ChatML."""
    facts = make_facts(rng)
    story, questions = make_story(facts, rng)
    if rng.random() < 0.55:
        titles = ["", "", "", "The $Kind and the $Thing", "A Story about $Name"]
        title = expand(rng.choice(titles), facts, rng)
        return title + "\n\n" * bool(title) + story
    turns = [("system", rng.choice(SYSTEM))] if rng.random() < 0.25 else []

    def ask(line, before=""):
        question, answer = line.split(" > ")
        turns.append(("user", before + expand(question, facts, rng)))
        turns.append(("assistant", expand(answer, facts, rng)))
    for _ in range(rng.choice([0, 0, 0, 1])):
        ask(rng.choice(TALK))
    what = rng.random()
    if what < 0.6:
        turns += [("user", expand(rng.choice(ASK), facts, rng)), ("assistant", story)]
        for line in rng.sample(questions, rng.choice([0, 1, 2, 3])):
            ask(line)
    elif what < 0.7:
        ask(rng.choice(questions[:-2]), story + "\n\n")
    else:
        for _ in range(rng.choice([1, 1, 2])):
            ask(rng.choice(TALK))
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
