-- A university course office: study programmes, lecturers, rooms, courses and who sits in them.

CREATE TABLE programmes (
    programme_id INTEGER PRIMARY KEY,
    programme_name TEXT NOT NULL,
    degree_level TEXT NOT NULL,
    faculty TEXT NOT NULL,
    credits_required INTEGER NOT NULL,
    places_per_year INTEGER NOT NULL,
    launched_on TEXT NOT NULL,
    closed_on TEXT
);

CREATE TABLE lecturers (
    lecturer_id INTEGER PRIMARY KEY,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    faculty TEXT NOT NULL,
    academic_rank TEXT NOT NULL,
    hired_on TEXT NOT NULL,
    left_on TEXT,
    salary INTEGER NOT NULL,
    bonus INTEGER
);

CREATE TABLE rooms (
    room_id INTEGER PRIMARY KEY,
    room_code TEXT NOT NULL,
    building TEXT NOT NULL,
    floor INTEGER NOT NULL,
    seat_count INTEGER NOT NULL,
    exam_seat_count INTEGER,
    has_projector INTEGER NOT NULL
);

CREATE TABLE courses (
    course_id INTEGER PRIMARY KEY,
    course_code TEXT NOT NULL,
    course_title TEXT NOT NULL,
    faculty TEXT NOT NULL,
    credit_points INTEGER NOT NULL,
    weekly_hours INTEGER NOT NULL,
    coordinator_id INTEGER NOT NULL,
    prerequisite_id INTEGER,
    FOREIGN KEY (coordinator_id) REFERENCES lecturers (lecturer_id),
    FOREIGN KEY (prerequisite_id) REFERENCES courses (course_id)
);

CREATE TABLE students (
    student_id INTEGER PRIMARY KEY,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    programme_id INTEGER NOT NULL,
    home_town TEXT,
    birth_date TEXT NOT NULL,
    admitted_on TEXT NOT NULL,
    graduated_on TEXT,
    FOREIGN KEY (programme_id) REFERENCES programmes (programme_id)
);

CREATE TABLE sections (
    section_id INTEGER PRIMARY KEY,
    course_id INTEGER NOT NULL,
    lecturer_id INTEGER NOT NULL,
    room_id INTEGER,
    term TEXT NOT NULL,
    weekday TEXT NOT NULL,
    starts_at TEXT NOT NULL,
    max_places INTEGER NOT NULL,
    waiting_count INTEGER NOT NULL,
    FOREIGN KEY (course_id) REFERENCES courses (course_id),
    FOREIGN KEY (lecturer_id) REFERENCES lecturers (lecturer_id),
    FOREIGN KEY (room_id) REFERENCES rooms (room_id)
);

CREATE TABLE enrolments (
    enrolment_id INTEGER PRIMARY KEY,
    student_id INTEGER NOT NULL,
    section_id INTEGER NOT NULL,
    enrolled_on TEXT NOT NULL,
    withdrawn_on TEXT,
    midterm_mark REAL,
    final_mark REAL,
    FOREIGN KEY (student_id) REFERENCES students (student_id),
    FOREIGN KEY (section_id) REFERENCES sections (section_id)
);
