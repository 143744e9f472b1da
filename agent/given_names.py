"""Given names that are common in Europe and America: the rule for names in `agent.redaction` looks for them.

A list can never be complete. Left out are those that are everyday words too (Will, Mark, May, Grace, Rose, Jack).
"""

_TEXT = """
aaron abigail adam adrian agnes ahmed aisha alan albert alejandro alessandro alexander alexandra alexis alfred ali
alice alina alison alyssa amanda amelia amir amy ana andrea andreas andrew angela anita anja anke ann anna anne
annette anthony antonio arthur ashley astrid barbara beatrice benjamin bernard bernd bettina birgit bogdan brandon
brenda brian bruno camille carla carlos carmen caroline catherine cecilia charles charlotte christian christina
christine christopher claire clara claudia claus cornelia cristina cynthia daniel daniela danielle david deborah
denise dennis diana diego dieter dietmar dmitri dmitry dominik donald dorothy douglas edith eduardo edward eleanor
elena elizabeth ella emil emily emma eric erik erika ernst esther eugene eva evelyn fabian fatima felix fernando
fiona florian frances francesca francesco francis francisco franziska frederick friedrich gabriel gabriela gary
george gerald gerhard giovanni gisela giulia giuseppe gregory guillaume gunther hannah hans harald harold heather
heidi heike heinrich heinz helen helena helga helmut henrik henry herbert hermann horst hugo ian ibrahim ines inge
ingrid irene isabel isabella ivan jacob jacqueline jakob james jamie jan jana janet janice jason javier jean jeffrey
jennifer jeremy jessica joachim joan joanna johan johann johanna johannes john jonas jonathan jorge jose josef
joseph joshua juan judith julia julian juliana julie jutta karen karin karl karolina katarina katharina katherine
kathleen katrin keith kenneth kerstin kevin klara klaus kristina kurt larisa lars laura lauren laurent lea lena leon
leonard leonie liam linda lisa lorenzo louis louise luca lucas lucia luis lukas magdalena manfred manuel manuela
marco marcus margaret maria marianne marie marina mario marion markus marlene marta martha martin martina mary mateo
matthew matthias maximilian megan mehmet melanie melissa michael michaela michel michelle miguel mohamed mohammed
monica monika muhammad mustafa nadia nadine nancy natalia natalie nathan nicholas nicola nicolas nicole nikolai
nikolaus nina noah nora norbert olaf oleg olga oliver olivia oscar otto pablo pamela patricia patrick paul paula
pauline pedro peter petra philip philipp philippe pierre rachel rainer ralf ralph raphael raymond rebecca renate
ricardo richard robert roberto roger roland ronald rosa rudolf russell ruth ryan sabine salvatore samantha samuel
sandra sara sarah scott sebastian sergei sergio sharon silke silvia simon simone sofia sonja sophia sophie stefan
stefanie stephanie stephen steven susan susanne sven svetlana sylvia tanja tatiana teresa theodor theresa thomas
thorsten timothy tobias torsten tracy ulrich ulrike ursula ute uwe valentina vanessa vera veronica victor victoria
viktor vincent vladimir volker walter werner wilhelm william wolfgang yasmin yusuf yvonne zoe
"""

GIVEN_NAMES = frozenset(_TEXT.split())
