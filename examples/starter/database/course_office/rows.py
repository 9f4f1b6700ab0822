"""Rows of the course office: a medium-sized university with the four terms from autumn 2022 to spring 2024.

Made to hold near misses on purpose: 'North Hall' and 'North Hall Annex', seats of 100 and 101,
`midterm_mark` beside `final_mark`, `hired_on` beside `left_on`, and people who share a last name or a first
name.
"""

import random
from datetime import date, timedelta


def pool(text: str) -> list[str]:
    """The words of a text, in order."""
    return text.split()


FACULTIES = ["Arts", "Science", "Engineering", "Medicine", "Law", "Applied Science"]

# Faculty -> (subjects taught as a degree).
SUBJECTS = {
    "Arts": [
        "History",
        "Philosophy",
        "Musicology",
        "Linguistics",
        "Art History",
        "Theatre Studies",
        "Classics",
    ],
    "Science": ["Physics", "Chemistry", "Biology", "Mathematics", "Geology", "Statistics", "Astronomy"],
    "Engineering": ["Civil Engineering", "Robotics", "Materials", "Energy Systems", "Computing"],
    "Medicine": ["Nursing", "Pharmacy", "Public Health", "Dentistry"],
    "Law": ["Public Law", "Tax Law", "Criminology"],
    "Applied Science": ["Food Science", "Applied Physics", "Textile Design"],
}

COURSES = {
    "Arts": [
        "Medieval Europe",
        "History of Ideas",
        "Ethics",
        "Introduction to Ethics",
        "Harmony and Form",
        "Phonetics",
        "Syntax",
        "Baroque Painting",
        "Stagecraft",
        "Greek for Beginners",
        "Latin Prose",
        "Oral History Workshop",
    ],
    "Science": [
        "Linear Algebra",
        "Linear Algebra II",
        "Real Analysis",
        "Probability",
        "Regression Models",
        "Organic Chemistry",
        "Physical Chemistry",
        "Cell Biology",
        "Genetics",
        "Mechanics",
        "Optics",
        "Stellar Physics",
        "Mineralogy",
        "Field Geology",
    ],
    "Engineering": [
        "Statics",
        "Concrete Structures",
        "Control Theory",
        "Robot Kinematics",
        "Databases",
        "Databases II",
        "Operating Systems",
        "Compiler Design",
        "Polymers",
        "Wind Energy",
        "Power Grids",
        "Fluid Dynamics",
    ],
    "Medicine": [
        "Anatomy",
        "Anatomy II",
        "Pharmacology",
        "Epidemiology",
        "Patient Care",
        "Dental Materials",
        "Health Economics",
        "Clinical Nutrition",
    ],
    "Law": [
        "Constitutional Law",
        "Contract Law",
        "Tax Law",
        "Introduction to Criminology",
        "Legal History",
        "Human Rights",
    ],
    "Applied Science": [
        "Food Chemistry",
        "Food Safety",
        "Sensor Technology",
        "Weaving Techniques",
        "Colour Science",
        "Packaging",
    ],
}

FIRST_NAMES = pool(
    """
    Ada Ben Carla Dario Elena Farid Greta Hugo Ines Jonas Kaja Liam Mira Nils Olga Pavel Quentin Rosa
    Samir Tilda Umar Vera Wanda Yusuf Zoe Anna Anne Marta Martha Theo
    """
)
LAST_NAMES = pool(
    """
    Abel Brandt Castillo Dvorak Ekwall Fontaine Garcia Hoffman Hoffmann Ivanova Jansen Kowalski
    Lindgren Moreau Nakamura Okafor Petrov Quist Rahman Silva Tanaka Ueda Varga Weber Weaver Ximenes
    Young Zeller
    """
)
TOWNS = [
    "Ashford",
    "Ashfield",
    "Brunnen",
    "Castelmare",
    "Dunmore",
    "Elbstadt",
    "Fjordvik",
    "Granville",
    "Highmoor",
    "Kirkwall",
    "Newport",
    "Newport Bay",
    None,
]
BUILDINGS = ["North Hall", "North Hall Annex", "Old Library", "Science Tower", "Riverside Block"]
RANKS = ["professor", "associate professor", "senior lecturer", "lecturer", "teaching fellow"]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
STARTS = ["08:15", "10:00", "10:15", "12:15", "14:15", "16:15", "18:00"]
TERMS = ["2022 autumn", "2023 spring", "2023 autumn", "2024 spring"]
TERM_START = {
    "2022 autumn": (2022, 8),
    "2023 spring": (2023, 1),
    "2023 autumn": (2023, 8),
    "2024 spring": (2024, 1),
}


def day(rng: random.Random, first: date, last: date) -> str:
    """A date drawn evenly from `first` to `last`, both included, as YYYY-MM-DD."""
    return str(first + timedelta(days=rng.randint(0, (last - first).days)))


def rows(rng: random.Random) -> dict[str, list[tuple]]:
    """Table name -> rows, in an order in which every foreign key is already there."""
    programmes = []
    for faculty, subjects in SUBJECTS.items():
        for subject in subjects:
            for level, credits in (("bachelor", 180), ("master", 120)):
                if level == "master" and subject in ("Classics", "Dentistry", "Textile Design"):
                    continue
                required = 90 if level == "master" and rng.random() < 0.25 else credits
                required = 210 if level == "bachelor" and rng.random() < 0.2 else required
                launched = day(rng, date(1985, 9, 1), date(2019, 9, 1))
                closed = day(rng, date(2020, 1, 1), date(2024, 6, 30)) if rng.random() < 0.2 else None
                places = rng.choice([20, 25, 25, 30, 40, 60, 100, 101])
                programmes.append(
                    (len(programmes) + 1, subject, level, faculty, required, places, launched, closed)
                )

    lecturers = []
    for lecturer_id in range(1, 65):
        hired = day(rng, date(1996, 1, 1), date(2022, 12, 31))
        left = day(rng, date(2023, 1, 1), date(2024, 7, 31)) if rng.random() < 0.15 else None
        rank = rng.choice(RANKS)
        salary = 3100 + 900 * (len(RANKS) - RANKS.index(rank)) + 50 * rng.randint(0, 12)
        bonus = rng.choice([None, None, 0, 250, 500, 500, 1000])
        faculty = FACULTIES[(lecturer_id - 1) % len(FACULTIES)]
        names = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
        lecturers.append((lecturer_id, *names, faculty, rank, hired, left, salary, bonus))

    rooms = []
    for building in BUILDINGS:
        for number in range(1, 12):
            floor = (number - 1) // 4
            code = f"{''.join(word[0] for word in building.split())}-{floor}{number:02d}"
            seats = rng.choice([18, 20, 24, 30, 30, 40, 60, 99, 100, 101, 180, 240])
            exam_seats = None if rng.random() < 0.2 else seats // 2
            rooms.append((len(rooms) + 1, code, building, floor, seats, exam_seats, int(rng.random() < 0.7)))

    courses = []
    for faculty, titles in COURSES.items():
        coordinators = [lecturer[0] for lecturer in lecturers if lecturer[3] == faculty]
        first_of_faculty = len(courses) + 1
        for number, title in enumerate(titles):
            course_id = len(courses) + 1
            code = f"{faculty[:3].upper()}{101 + number * 10 + rng.randint(0, 1)}"
            earlier = list(range(first_of_faculty, course_id))
            prerequisite = rng.choice(earlier) if earlier and rng.random() < 0.4 else None
            credits, hours = rng.choice([3, 5, 5, 6, 6, 8, 10]), rng.choice([2, 2, 3, 4, 4, 6])
            coordinator = rng.choice(coordinators)
            courses.append((course_id, code, title, faculty, credits, hours, coordinator, prerequisite))

    students = []
    for student_id in range(1, 211):
        admitted_year = rng.randint(2019, 2023)
        admitted = day(rng, date(admitted_year, 8, 15), date(admitted_year, 10, 5))
        graduated = None
        if admitted_year <= 2021 and rng.random() < 0.5:
            graduated = day(rng, date(admitted_year + 2, 6, 1), date(admitted_year + 3, 7, 31))
        born = day(rng, date(admitted_year - 26, 1, 1), date(admitted_year - 18, 12, 31))
        names = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
        programme = rng.randint(1, len(programmes) - 4)  # the last programmes have no students
        students.append((student_id, *names, programme, rng.choice(TOWNS), born, admitted, graduated))

    sections = []
    for section_id in range(1, 121):
        course = rng.choice(courses[:-5])  # the last courses are never taught
        lecturer = course[6] if rng.random() < 0.6 else rng.randint(1, 58)
        room = None if rng.random() < 0.08 else rng.randint(1, 50)
        places, waiting = (
            rng.choice([15, 20, 24, 25, 30, 30, 60, 100]),
            rng.choice([0, 0, 0, 0, 1, 2, 3, 5, 8, 12]),
        )
        slot = rng.choice(TERMS), rng.choice(WEEKDAYS), rng.choice(STARTS)
        sections.append((section_id, course[0], lecturer, room, *slot, places, waiting))

    enrolments, seen = [], set()
    while len(enrolments) < 480:
        student, section = rng.choice(students[:-15])[0], rng.choice(sections[:-6])
        if (student, section[0]) in seen:
            continue
        seen.add((student, section[0]))
        year, month = TERM_START[section[4]]
        enrolled = day(rng, date(year, month, 1), date(year, month + 1, 20))
        withdrawn = midterm = final = None
        if rng.random() < 0.12:
            withdrawn = str(date.fromisoformat(enrolled) + timedelta(days=rng.randint(3, 60)))
        else:
            midterm = None if rng.random() < 0.1 else rng.randint(4, 20) / 2
            final = (
                None
                if rng.random() < 0.08
                else min(10.0, max(1.0, (midterm or 6.0) + rng.randint(-4, 4) / 2))
            )
        enrolments.append((len(enrolments) + 1, student, section[0], enrolled, withdrawn, midterm, final))

    return {
        "programmes": programmes,
        "lecturers": lecturers,
        "rooms": rooms,
        "courses": courses,
        "students": students,
        "sections": sections,
        "enrolments": enrolments,
    }
